/* The first process: loads kernel modules, runs one command, and ends the run with its status.
 *
 * What it is to do stands in two files of the initrd: /turducken/insmod has a line for each module,
 * its path and then its parameters; /turducken/run has the command.
 */
#include "lib/print.h"
#include "lib/program.h"

enum {
    MISSING = 127, /* the command cannot be executed, as shells say it */
    REFUSED = 126, /* a module cannot be loaded */
    SIGNALLED = 128,
    DEBUG_EXIT_PORT = 0xf4,
    TCSBRK = 0x5409,
    LONGEST_TEXT = 16384,
    MOST_WORDS = 256,
};

static const char *const PATHS[] = { "/turducken/", "/share/", "/bin/", "/sbin/", "/usr/bin/", "/usr/sbin/" };
static char *const ENVIRONMENT[] = {
    "PATH=/turducken:/share:/bin:/sbin:/usr/bin:/usr/sbin", "HOME=/", "TERM=dumb", NULL,
};

static char text[LONGEST_TEXT];
static char *words[MOST_WORDS + 1];

/* -- the end --------------------------------------------------------------------------------- */

/* Wait until the console has been written, then tell the machine. */
static void __attribute__((noreturn)) end_run(int status)
{
    syscall3(SYS_ioctl, 1, TCSBRK, 1);
    if (syscall1(SYS_iopl, 3) == 0)
        __asm__ volatile("outl %0, %w1" : : "a"(status), "Nd"(DEBUG_EXIT_PORT));
    for (;;)
        syscall4(SYS_reboot, 0xfee1dead, 0x28121969, 0x4321fedc, 0);
}

/* -- what a program expects to find ------------------------------------------------------------ */

static void mount(const char *kind, const char *where)
{
    syscall2(SYS_mkdir, where, 0755);
    syscall5(SYS_mount, kind, where, kind, 0, 0);
}

static void prepare(void)
{
    mount("proc", "/proc");
    mount("sysfs", "/sys");
    mount("devtmpfs", "/dev");
    mount("tmpfs", "/tmp");
    syscall0(SYS_setsid);
}

/* -- kernel modules ---------------------------------------------------------------------------- */

static void load_module(const char *path, const char *parameters)
{
    int file = open_file(path, O_RDONLY | O_CLOEXEC);
    long result = file < 0 ? file : syscall3(SYS_finit_module, file, parameters, 0);
    if (result < 0) {
        print("init: module %s %s: error %d\n", path, parameters, (int)-result);
        end_run(REFUSED);
    }
    close_file(file);
}

/* Cut the text at the next `end`; return what follows. */
static char *cut(char *from, char end)
{
    while (*from && *from != end)
        from++;
    if (*from)
        *from++ = 0;
    return from;
}

static void load_modules(void)
{
    if (read_file("/turducken/insmod", text, sizeof text) <= 0)
        return;
    for (char *line = text; *line;) {
        char *next = cut(line, '\n');
        char *parameters = cut(line, ' ');
        load_module(line, parameters);
        line = next;
    }
}

/* -- the command ------------------------------------------------------------------------------- */

static bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\n'; }

/* Take one word from `from`, with quotes around parts of it removed; return what follows. */
static char *take_word(char *from, char **word_out)
{
    char *to = from, quote = 0;
    *word_out = from;
    for (; *from && (quote || !is_blank(*from)); from++) {
        if (quote ? *from == quote : *from == '\'' || *from == '"')
            quote = quote ? 0 : *from;
        else
            *to++ = *from;
    }
    char *rest = *from ? from + 1 : from;
    *to = 0;
    return rest;
}

static unsigned split(char *line)
{
    unsigned count = 0;
    for (;;) {
        while (is_blank(*line))
            line++;
        if (!*line || count == MOST_WORDS)
            break;
        line = take_word(line, &words[count++]);
    }
    words[count] = NULL;
    return count;
}

static bool has_slash(const char *s)
{
    while (*s && *s != '/')
        s++;
    return *s != 0;
}

static void execute(const char *path) { syscall3(SYS_execve, path, words, ENVIRONMENT); }

/* Without a shell: replace this process by the program that the first word names. */
static void execute_words(char *line)
{
    if (!split(line))
        return;
    if (has_slash(words[0])) {
        execute(words[0]);
        return;
    }
    for (unsigned i = 0; i < ARRAY_LEN(PATHS); i++) {
        char path[512] = "";
        struct text joined = { path, 0, sizeof path };
        text_print(&joined, "%s%s", PATHS[i], words[0]);
        execute(path);
    }
}

static void __attribute__((noreturn)) become_command(char *line)
{
    words[0] = "sh", words[1] = "-c", words[2] = line, words[3] = NULL;
    execute("/bin/sh");
    execute_words(line);
    print("init: %s: no such program in the initrd\n", words[0] ? words[0] : "(no command)");
    leave(MISSING);
}

static int run(char *line)
{
    long child = syscall0(SYS_fork);
    if (child == 0)
        become_command(line);
    for (;;) {
        int status = 0;
        long ended = syscall4(SYS_wait4, -1, &status, 0, 0);
        if (ended == child)
            return status & 0x7f ? SIGNALLED + (status & 0x7f) : status >> 8 & 0xff;
        if (ended < 0 && ended != -EINTR)
            return MISSING;
    }
}

int program(int count, char **arguments, char **environment)
{
    (void)count, (void)arguments, (void)environment;
    prepare();
    load_modules();
    if (read_file("/turducken/run", text, sizeof text) < 0) {
        print("init: /turducken/run is missing\n");
        end_run(MISSING);
    }
    end_run(run(text));
}
