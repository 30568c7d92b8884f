#include "vmx/fields.h"
#include "vmx/caps.h"

#define FIELD(name, encoding, word, bit) { #name, encoding, word, bit },
const struct vmcs_field_row vmcs_fields[] = { FOR_EACH_FIELD(FIELD) };
#undef FIELD

const unsigned vmcs_field_count = ARRAY_LEN(vmcs_fields);

bool field_exists(const struct vmcs_field_row *field)
{
    return field->word == ALWAYS || may_set(field->word, field->bit);
}
