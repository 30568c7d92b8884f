/* The two 8259 interrupt controllers: lhv wants none of their interrupts. */
#pragma once

void pic_mask_all(void);
