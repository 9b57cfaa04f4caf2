# See bootguest.py. Sector 0 of a disk; sector 1 counts the boots, from sector 2 on 4 KiB of text for each.
.code16
.org 0
start:
  cli
  xorw %ax,%ax
  movw %ax,%ds
  movw %ax,%es
  movw %ax,%ss
  movw $0x7c00,%sp
  sti
  cld
  movb %dl,0x500
  movw $(0x7c00+dap-start),%si
  movb $0x42,%ah
  int $0x13
  jc halt
  movb 0x8000,%bl
  incb 0x8000
  movw $1,(0x7c00+dap-start+2)
  movw $(0x7c00+dap-start),%si
  movw $0x4300,%ax
  movb 0x500,%dl
  int $0x13
  jc halt
  xorb %bh,%bh
  shlw $12,%bx
  addw $0x8200,%bx
  movw $3,%di              # times that the text is said
again:
  movw %bx,%si
next:
  lodsb
  testb %al,%al
  jz pause
  movb %al,%ah
  movw $0x3fd,%dx
ready:
  inb %dx,%al
  testb $0x20,%al
  jz ready
  movw $0x3f8,%dx
  movb %ah,%al
  outb %al,%dx
  jmp next
pause:
  movw $0xc,%cx            # a pause of 0.8 s
  movw $0,%dx
  movb $0x86,%ah
  int $0x15
  decw %di
  jnz again
  lodsb
  cmpb $'R',%al            # after the text: restart
  jne halt
  movw $0xcf9,%dx
  movb $6,%al
  outb %al,%dx
halt:
  hlt
  jmp halt
dap:
  .byte 0x10,0
  .word 57                 # sectors: the count and seven texts
  .word 0x8000,0
  .quad 1
.org 510
.word 0xaa55
