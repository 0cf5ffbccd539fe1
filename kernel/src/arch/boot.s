# Entry points and the first page tables. Everything here runs at its physical address (1:1), below 4 GiB.
.section .note.Xen, "a", @note
.p2align 2
    .long 4
    .long 8            # QEMU reads 8 bytes from an ELF64; Xen and rust-vmm accept 8
    .long 18           # XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad pvh_entry

.section .boot.text, "ax"
.code32
.globl pvh_entry, linux64_entry
pvh_entry:                       # ebx = hvm_start_info
    mov ebp, 1
    mov esi, ebx
common32:
    cli
    cld
    rdtsc                        # when the machine reached us: the zero of boot-time figures
    mov [boot_tsc], eax
    mov [boot_tsc + 4], edx
    mov esp, offset boot_stack_top
    # Clear .boot.bss is not needed: the loader zeroes it (p_memsz > p_filesz).
    # Identity map of 4 GiB with 2 MiB pages, and its first GiB again at -2 GiB.
    mov edi, offset boot_pd0
    mov eax, 0x83
    xor ecx, ecx
2:  mov [edi + ecx*8], eax
    mov dword ptr [edi + ecx*8 + 4], 0
    add eax, 0x200000
    inc ecx
    cmp ecx, 2048
    jne 2b
    mov eax, offset boot_pd0 + 3
    mov edi, offset boot_pdpt_lo
    mov [edi], eax
    add eax, 0x1000
    mov [edi+8], eax
    add eax, 0x1000
    mov [edi+16], eax
    add eax, 0x1000
    mov [edi+24], eax
    mov edi, offset boot_pdpt_hi
    mov eax, offset boot_pd0 + 3
    mov [edi + 510*8], eax
    mov edi, offset boot_pml4
    mov eax, offset boot_pdpt_lo + 3
    mov [edi], eax
    mov eax, offset boot_pdpt_hi + 3
    mov [edi + 511*8], eax
    mov eax, offset boot64
    jmp enter_long_mode
.code64
boot64:
    mov edi, ebp
    mov esi, esi
    movabs rsp, offset BOOT_STACK_TOP
    xor ebp, ebp
    movabs rax, offset rust_entry
    call rax
9:  hlt
    jmp 9b

# From 32-bit mode without paging to the 64-bit address in eax, on boot_pml4. Keeps ebp, esi.
.code32
enter_long_mode:
    mov ebx, eax
    mov edi, offset boot_pml4
    mov cr3, edi
    mov eax, cr4
    or  eax, (1<<5) | (1<<9) | (1<<10)      # PAE | OSFXSR | OSXMMEXCPT
    mov cr4, eax
    mov ecx, 0xc0000080
    rdmsr
    or  eax, (1<<8) | (1<<11)               # LME | NXE
    wrmsr
    mov eax, cr0
    and eax, ~((1<<2) | (1<<29) | (1<<30))  # EM, NW, CD off
    or  eax, (1<<31) | (1<<16) | (1<<5) | (1<<1) | 1   # PG WP NE MP PE
    mov cr0, eax
    lgdt [boot_gdtr]
    push 8
    mov eax, offset long_mode
    push eax
    retf
.code64
long_mode:
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    mov ss, ax
    xor eax, eax
    mov fs, ax
    mov gs, ax
    jmp rbx

# Linux 64-bit boot protocol: RSI = boot_params, long mode, identity mapped. Leaves long mode and joins the rest.
linux64_entry:
    cli
    cld
    mov ebp, 3
    lea rsp, [rip + boot_stack_top]
    lgdt [rip + boot_gdtr]
    lea rax, [rip + 1f]
    push 0x18
    push rax
    retfq
.code32
1:  mov ax, 0x10
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov eax, cr0
    and eax, 0x7fffffff
    mov cr0, eax
    jmp common32

# A secondary processor: copied to AP_BASE (below 1 MiB, page aligned) and started there by SIPI in real mode.
.globl ap_trampoline, ap_trampoline_end
.set AP_BASE, 0x8000
.code16
.p2align 4
ap_trampoline:
    .byte 0xeb, 12                          # jmp over the next 12 bytes
    .skip 6
    .short boot_gdtr - boot_gdt - 1         # at AP_BASE + 8: the descriptor table's pointer
    .long boot_gdt
    cli
    cld
    xor ax, ax
    mov ds, ax
    lgdt [AP_BASE + 8]
    mov eax, cr0
    or  eax, 1
    mov cr0, eax
    .byte 0x66, 0xea                        # ljmp 0x18:ap32
    .long ap32
    .short 0x18
ap_trampoline_end:
.code32
ap32:
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov esp, offset boot_stack_top
    # One processor at a time goes through here: the starter waits for it. esp is used by one retf only.
    mov eax, offset ap64
    jmp enter_long_mode
.code64
ap64:
    movabs rax, offset ap_high
    jmp rax

# In the high half, so that it stays mapped when the kernel's tables, without the identity map, are loaded.
.section .text.ap, "ax"
ap_high:
    movabs rax, offset AP_ROOT
    mov rax, [rax]
    mov cr3, rax
    movabs rax, offset AP_STACK
    mov rsp, [rax]
    xor ebp, ebp
    movabs rax, offset ap_entry
    call rax
9:  hlt
    jmp 9b

.section .boot.data, "aw"
.p2align 4
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff    # 0x08 code64
    .quad 0x00cf93000000ffff    # 0x10 data
    .quad 0x00cf9b000000ffff    # 0x18 code32
boot_gdtr:
    .short boot_gdtr - boot_gdt - 1
    .quad boot_gdt
.globl boot_tsc
.p2align 3
boot_tsc: .quad 0

.section .boot.bss, "aw", @nobits
.p2align 12
.globl boot_pml4
boot_pml4:    .skip 4096
boot_pdpt_lo: .skip 4096
boot_pdpt_hi: .skip 4096
boot_pd0:     .skip 4096*4
boot_stack:   .skip 4096
boot_stack_top:

.section .bss.bootstack, "aw", @nobits
.p2align 12
.globl BOOT_STACK_TOP
    .skip 65536
BOOT_STACK_TOP:
.text
