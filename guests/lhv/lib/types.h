/* Integer types.  `word` is the processor's natural width: 32 or 64 bits. */
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned long word;
typedef _Bool bool;

#define true 1
#define false 0
#define NULL ((void *)0)

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define BIT(n) (1u << (n))
#define BIT64(n) (1ull << (n))
#define PAGE_SIZE 4096u
#define ALIGNED(n) __attribute__((aligned(n)))

#ifdef __x86_64__
#define IS_64BIT 1
#else
#define IS_64BIT 0
#endif

/* LHV_PAE is set by the Makefile for the i386 build that pages with PAE. */
#ifdef LHV_PAE
#define IS_PAE 1
#else
#define IS_PAE 0
#endif
