#include "vmx/instructions.h"
#include "test/test.h"

static word read_part(u32 encoding)
{
    word value = 0;
    enum vmx_status status = try_vmread(encoding, &value);
    if (status != VMX_OK)
        broken("VMREAD of field %x: status %u", encoding, status);
    return value;
}

static void write_part(u32 encoding, word value)
{
    enum vmx_status status = try_vmwrite(encoding, value);
    if (status != VMX_OK)
        broken("VMWRITE of field %x: status %u", encoding, status);
}

/* In 32-bit mode a 64-bit field is two: the encoding + 1 names the upper half. */
static bool in_two_parts(u32 encoding) { return !IS_64BIT && field_width(encoding) == WIDTH_64; }

u64 vmread(u32 encoding)
{
    u64 value = read_part(encoding);
    return in_two_parts(encoding) ? value | (u64)read_part(encoding + 1) << 32 : value;
}

void vmwrite(u32 encoding, u64 value)
{
    write_part(encoding, (word)value);
    if (in_two_parts(encoding))
        write_part(encoding + 1, (word)(value >> 32));
}
