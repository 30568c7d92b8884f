/* Threads on chosen processors. */
#pragma once
#include "lib/types.h"

struct thread {
    void (*work)(void *);
    void *argument;
    volatile int is_done;
    void *stack;
};

/* Count the processors, while the program may still run on all of them; then how many there are. */
void count_processors(void);
unsigned processor_count(void);

/* Run on one processor from now on. */
void move_to(unsigned processor);

void thread_start(struct thread *thread, void (*work)(void *), void *argument);
void thread_join(struct thread *thread);

/* Let others run for a moment. */
void give_way(void);
