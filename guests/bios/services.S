// The services of the built-in BIOS: INT 15h tells the memory, INT 13h reads and writes the disks
// of the first IDE channel. Ralf Brown's Interrupt List and the Enhanced Disk Drive Specification
// say how they are called. What the BIOS knows is at TABLES, in the same segment.

	.code16
	.set TABLES, 0x7000	// memory map: a word with its length, then entries of 20 bytes
	.set MEMORY, 0x7e00	// KiB from 1 to 16 MiB, units of 64 KiB above, KiB for function 88h
	.set DISKS, 0x7e10	// a word with their number, then the sectors of each in a doubleword

	.set SMAP, 0x534d4150
	.set HEADS, 255
	.set SECTORS, 63
	.set PORT, 0x1f0

	// Where the saved registers are in the frame of INT 13h.
	.set EDI, 0
	.set ESI, 4
	.set EBX, 16
	.set EDX, 20
	.set ECX, 24
	.set EAX, 28
	.set ES_, 32
	.set DS_, 34
	.set FLAGS, 40

	.text
	.globl start
start:	jmp int15
	.org 8
	jmp int13
	.org 16

int15:	cmp $0xe820, %ax
	je memory_map
	cmp $0xe801, %ax
	je memory_size
	cmp $0x88, %ah
	je extended_memory
	cmp $0x2401, %ax	// open gate A20: it is
	je done
not_there:
	mov $0x86, %ah
fail:	push %bp
	mov %sp, %bp
	orb $1, 6(%bp)
	pop %bp
	iret
done:	mov $0, %ah
succeed:
	push %bp
	mov %sp, %bp
	andb $0xfe, 6(%bp)
	pop %bp
	iret

memory_map:
	cmp $SMAP, %edx
	jne not_there
	cmp $20, %ecx
	jb not_there
	cmp %cs:TABLES, %bx
	jae not_there
	push %si
	push %di
	push %ds
	push %cs
	pop %ds
	imul $20, %bx, %si
	add $TABLES + 2, %si
	mov $20, %cx
	cld
	rep movsb
	pop %ds
	pop %di
	pop %si
	inc %ebx
	cmp %cs:TABLES, %bx
	jb 1f
	xor %ebx, %ebx
1:	mov $SMAP, %eax
	mov $20, %ecx
	jmp succeed

memory_size:
	mov %cs:MEMORY, %ax
	mov %cs:MEMORY + 2, %bx
	mov %ax, %cx
	mov %bx, %dx
	jmp succeed

extended_memory:
	mov %cs:MEMORY + 4, %ax
	jmp succeed

// INT 13h. DX is kept in %dx where the drive is needed; BP points to the frame.

int13:	push %ds
	push %es
	pushal
	mov %sp, %bp
	cld
	sub $0x80, %dl
	jb wrong
	movzx %dl, %cx
	cmp %cs:DISKS, %cx
	jae wrong
	cmp $0x00, %ah
	je ok
	cmp $0x01, %ah
	je ok
	cmp $0x02, %ah
	je read_chs
	cmp $0x03, %ah
	je write_chs
	cmp $0x08, %ah
	je geometry
	cmp $0x15, %ah
	je disk_type
	cmp $0x41, %ah
	je extensions
	cmp $0x42, %ah
	je read_lba
	cmp $0x43, %ah
	je write_lba
	cmp $0x48, %ah
	je parameters
wrong:	mov $0x01, %ah
bad:	orb $1, FLAGS(%bp)
	jmp out
ok:	mov $0, %ah
good:	andb $0xfe, FLAGS(%bp)
out:	mov %ah, EAX + 1(%bp)
	popal
	pop %es
	pop %ds
	iret

// The number of sectors of the drive in DL: to EAX.
total:	movzx %dl, %bx
	shl $2, %bx
	mov %cs:DISKS + 2(%bx), %eax
	ret

read_chs:
	mov $0x20, %bl
	jmp chs
write_chs:
	mov $0x30, %bl
chs:	mov ECX(%bp), %cx
	movzx %ch, %eax
	mov %cl, %al
	mov %ch, %ah
	xchg %al, %ah		// AX: sector and high bits of the cylinder above, low bits below
	shr $6, %ah
	and $0x3ff, %eax	// the cylinder
	imul $HEADS, %eax
	movzbl EDX + 1(%bp), %esi
	add %esi, %eax
	imul $SECTORS, %eax
	movzx %cl, %esi
	and $63, %si
	dec %esi
	js wrong
	add %esi, %eax
	movzbw EAX(%bp), %cx
	mov EBX(%bp), %di
	jmp transfer

read_lba:
	mov $0x20, %bl
	jmp lba
write_lba:
	mov $0x30, %bl
lba:	cmpb $0x10, (%si)
	jb wrong
	cmpl $0, 12(%si)
	jne wrong
	mov 8(%si), %eax
	mov 2(%si), %cx
	mov 6(%si), %di
	mov %di, %es
	mov 4(%si), %di

// Move CX sectors from EAX on, by command BL, between the drive in DL and ES:DI.
transfer:
	mov %bl, %bh
	mov %eax, %esi
	push %bx
	call total
	pop %bx
	sub %esi, %eax
	jbe 8f
	cmp $0x10000, %eax
	jae 1f
	cmp %ax, %cx
	ja 8f
1:	shl $4, %dl		// the drive's bit in the device register
	or $0xe0, %dl
	mov %dl, %bl
2:	test %cx, %cx
	jz ok
	mov %es, %ax		// so that no sector reaches beyond the segment
	mov %di, %dx
	shr $4, %dx
	add %dx, %ax
	mov %ax, %es
	and $15, %di
	call one_sector
	jc 7f
	inc %esi
	dec %cx
	jmp 2b
7:	mov $0x04, %ah		// sector not found, or worse
	jmp bad
8:	mov $0x04, %ah
	jmp bad

// One sector ESI by command BH to the device BL; DI goes on. Carry: an error.
one_sector:
	mov $PORT + 2, %dx
	mov $1, %al
	outb %al, %dx
	mov %esi, %eax
	inc %dx
	outb %al, %dx
	inc %dx
	shr $8, %eax
	outb %al, %dx
	inc %dx
	shr $8, %eax
	outb %al, %dx
	inc %dx
	shr $8, %eax
	and $15, %al
	or %bl, %al
	outb %al, %dx
	inc %dx
	mov %bh, %al
	outb %al, %dx
	call wait
	jc 9f
	push %cx
	mov $256, %cx
	mov $PORT, %dx
	cmp $0x20, %bh
	jne 1f
	rep insw
	jmp 2f
1:	push %ds
	push %si
	push %es
	pop %ds
	mov %di, %si
	rep outsw
	mov %si, %di
	pop %si
	pop %ds
2:	pop %cx
	mov $PORT + 7, %dx
	inb %dx, %al
	test $1, %al
	jz 9f
	stc
9:	ret
wait:	inb %dx, %al
	test $0x80, %al
	jnz wait
	test $0x21, %al
	jnz 1f
	test $0x08, %al
	jz wait
	clc
	ret
1:	stc
	ret

geometry:
	call cylinders
	cmp $1024, %eax
	jbe 1f
	mov $1024, %eax
1:	dec %ax
	mov %al, ECX + 1(%bp)
	shl $6, %ah
	or $SECTORS, %ah
	mov %ah, ECX(%bp)
	movb $HEADS - 1, EDX + 1(%bp)
	mov %cs:DISKS, %al
	mov %al, EDX(%bp)
	movb $0, EBX(%bp)
	jmp ok
// Cylinders of the drive in DL, at least one: to EAX.
cylinders:
	call total
	xor %edx, %edx
	mov $HEADS * SECTORS, %ecx
	div %ecx
	test %eax, %eax
	jnz 1f
	inc %eax
1:	ret

disk_type:
	call total
	mov %ax, EDX(%bp)
	shr $16, %eax
	mov %ax, ECX(%bp)
	mov $3, %ah
	jmp good

extensions:
	cmpw $0x55aa, EBX(%bp)
	jne wrong
	movw $0xaa55, EBX(%bp)
	movw $1, ECX(%bp)	// reading and writing by LBA
	mov $0x30, %ah
	jmp good

parameters:
	cmpw $26, (%si)
	jb bad_parameters
	push %dx
	call cylinders
	pop %dx
	movw $26, (%si)
	movw $0, 2(%si)
	mov %eax, 4(%si)
	movl $HEADS, 8(%si)
	movl $SECTORS, 12(%si)
	call total
	mov %eax, 16(%si)
	movl $0, 20(%si)
	movw $512, 24(%si)
	jmp ok
bad_parameters:
	mov $0x01, %ah
	jmp bad
	.section .note.GNU-stack, "", @progbits
