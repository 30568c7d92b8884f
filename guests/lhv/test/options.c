#include "test/options.h"
#include "lib/print.h"
#include "lib/string.h"
#include "x86/asm.h"

struct options options = { .tests = "*", .cpus = MAX_CPUS, .seed = 1 };

static u32 number(const char *digits)
{
    u32 value = 0;
    for (; *digits >= '0' && *digits <= '9'; digits++)
        value = value * 10 + (u32)(*digits - '0');
    return value;
}

/* The text behind `key`, if the word begins with it */
static const char *value_of(const char *word_, const char *key)
{
    word length = strlen(key);
    return memcmp(word_, key, length) ? NULL : word_ + length;
}

/* Add to a list; the default, "*", is not added to but replaced. */
static void add_items(char *list, word size, const char *items)
{
    word length = streq(list, "*") ? 0 : strlen(list);
    struct text text = { list, length, size };
    text_print(&text, "%s%s", length ? "," : "", items);
}

/* Words that say nothing to lhv are passed over: some loaders put the image's name first. */
static void parse_word(const char *text)
{
    const char *value;
    if ((value = value_of(text, "tests=")))
        add_items(options.tests, sizeof options.tests, value);
    else if ((value = value_of(text, "skip=")))
        add_items(options.skip, sizeof options.skip, value);
    else if ((value = value_of(text, "soak=")))
        options.soak = number(value);
    else if ((value = value_of(text, "seed=")))
        options.seed = number(value);
    else if ((value = value_of(text, "cpus=")))
        options.cpus = number(value);
    else if (streq(text, "list"))
        options.list = true;
    else if (streq(text, "quiet"))
        options.quiet = true;
}

void options_parse(const char *command_line)
{
    char text[sizeof options.tests + 32]; /* value_of() may look a few bytes ahead */
    while (*command_line) {
        word length = 0;
        memset(text, 0, sizeof text);
        for (; *command_line && *command_line != ' '; command_line++)
            if (length < sizeof options.tests + 16)
                text[length++] = *command_line;
        parse_word(text);
        while (*command_line == ' ')
            command_line++;
    }
}

const char *options_item(const char *list, char *item)
{
    while (*list && *list != ',')
        *item++ = *list++;
    *item = 0;
    return *list ? list + 1 : list;
}

bool options_match(const char *item, const char *subject, const char *name)
{
    return streq(item, subject) || glob(item, name);
}

/* Does an item of the list name the subject, or match the name? */
static bool in_list(const char *list, const char *subject, const char *name)
{
    char item[sizeof options.tests];
    while (*list) {
        list = options_item(list, item);
        if (options_match(item, subject, name))
            return true;
    }
    return false;
}

bool options_select(const char *subject, const char *name)
{
    return in_list(options.tests, subject, name) && !in_list(options.skip, subject, name);
}
