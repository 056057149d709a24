// SPDX-License-Identifier: Apache-2.0
/*
 * Stands before a kernel, 2 MiB of it, and changes PSCI in the device tree before it enters it: QEMU puts its own into
 * every tree that it loads. To QEMU this is the header of an Image (Linux: Documentation/arch/arm64/booting.rst).
 * Wherever the tree has the 8 bytes FIND, the one at CHANGED of them becomes an x.
 */
	.globl	_start
_start:
	b	begin
	.long	0
	.quad	0			// text offset
	.quad	0x4000000		// size, with room for the kernel
	.quad	0xa			// little-endian, 4 KiB pages, anywhere
	.quad	0, 0, 0
	.ascii	"ARM\x64"
	.long	0

find:	.ascii	FIND

begin:
	ldr	w1, [x0, #4]		// of the tree at x0, its size
	rev	w1, w1
	add	x1, x0, x1
	mov	x2, x0
each:
	mov	x3, #0
	adr	x4, find
compare:				// by bytes: without an MMU nothing else may be unaligned
	ldrb	w5, [x2, x3]
	ldrb	w6, [x4, x3]
	cmp	w5, w6
	b.ne	next
	add	x3, x3, #1
	cmp	x3, #8
	b.lo	compare
	mov	w5, #'x'
	strb	w5, [x2, #CHANGED]
next:
	add	x2, x2, #1
	cmp	x2, x1
	b.lo	each
	adr	x4, _start
	add	x4, x4, #0x200000
	mov	x1, #0
	mov	x2, #0
	mov	x3, #0
	br	x4
