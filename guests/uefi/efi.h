// The little of UEFI that the program uses: UEFI Specification 2.10, "EFI System Table".
#ifndef EFI_H
#define EFI_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define EFI_API __attribute__((ms_abi))

#define EFI_SUCCESS 0ull
#define EFI_UNSUPPORTED (1ull << 63 | 3)
#define EFI_DEVICE_ERROR (1ull << 63 | 7)

struct efi_text_output {
    void *reset;
    u64(EFI_API *output_string)(struct efi_text_output *self, const u16 *text);
};

struct efi_system_table {
    u8 header[24];
    const u16 *vendor;
    u32 revision;
    void *input_handle, *input, *output_handle;
    struct efi_text_output *output;
};

#endif
