/* L2 with the use of this processor's real APIC, so that it can send interrupts to itself. */
#pragma once
#include "vmx/vm.h"

void vm_give_apic(struct vm *vm);
