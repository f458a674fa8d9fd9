/* Kills a process at its Nth file operation: preloaded into a Python that has imported everything.

   Every operation that changes something below one of the watched folders is counted, in all processes
   that share the counter (a driver and its workers). At number `at` the process ends by SIGKILL: before
   the operation, after it, or, of a write, after the first half of its bytes. Operations by whichever
   library are seen, since all of them call libc: Python's, safetensors', tokenizers'. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { BEFORE = 0, AFTER = 1, TORN = 2 };

static char roots[2][PATH_MAX];
static volatile long *count; /* shared with forked children */
static long at;
static int how, trace = -1, armed;

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

/* Watches from now on. at: number of the fatal operation from 1, 0 for none; log: file that gets a line
   an operation, or NULL. */
void crash_arm(const char *one, const char *two, long fatal, int variant, const char *log) {
    snprintf(roots[0], PATH_MAX, "%s", one);
    snprintf(roots[1], PATH_MAX, "%s", two);
    count = mmap(NULL, sizeof(long), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    at = fatal;
    how = variant;
    if (log)
        trace = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    armed = 1;
}

static int below(const char *path) {
    for (int i = 0; i < 2; i++) {
        size_t n = strlen(roots[i]);
        if (n && !strncmp(path, roots[i], n) && (path[n] == '/' || !path[n])) return 1;
    }
    return 0;
}

/* Absolute name of an open file, or of `path` seen from the open folder `folder`; 1 if it is watched. */
static int named(int folder, const char *path, char *out) {
    char link[64];
    if (!armed) return 0;
    if (path && path[0] == '/') {
        snprintf(out, PATH_MAX, "%s", path);
        return below(out);
    }
    if (path && folder == AT_FDCWD)
        snprintf(link, sizeof link, "/proc/self/cwd");
    else
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    ssize_t n = readlink(link, out, PATH_MAX - 1);
    if (n <= 0) return 0;
    out[n] = 0;
    if (path) snprintf(out + n, PATH_MAX - n, "/%s", path);
    return below(out);
}

static void die(void) {
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;) pause();
}

/* Counts an operation; returns whether it is the fatal one, which it is not if that ends it before. */
static int counted(const char *verb, const char *path) {
    int saved = errno;
    long number = __atomic_add_fetch(count, 1, __ATOMIC_SEQ_CST);
    if (trace >= 0) {
        char line[PATH_MAX + 64];
        int n = snprintf(line, sizeof line, "%s\t%s\n", verb, path);
        syscall(SYS_write, trace, line, (size_t)n);
    }
    if (number == at && how == BEFORE) die();
    errno = saved;
    return number == at;
}

#define WRAP(kind, watched, verb, path, call)            \
    do {                                                 \
        int fatal = (watched) && counted(verb, path);    \
        kind result = call;                              \
        if (fatal) die();                                \
        return result;                                   \
    } while (0)

#define OPEN(name, folder, call)                                                      \
    mode_t mode = 0;                                                                  \
    char full[PATH_MAX];                                                              \
    if (flags & (O_CREAT | O_TMPFILE)) {                                              \
        va_list more;                                                                 \
        va_start(more, flags);                                                        \
        mode = va_arg(more, mode_t);                                                  \
        va_end(more);                                                                 \
    }                                                                                 \
    int writes = (flags & O_ACCMODE) != O_RDONLY || (flags & (O_CREAT | O_TRUNC));    \
    WRAP(int, writes && named(folder, path, full), "open", full, call)

int open(const char *path, int flags, ...) { OPEN(open, AT_FDCWD, REAL(open)(path, flags, mode)); }
int open64(const char *path, int flags, ...) { OPEN(open64, AT_FDCWD, REAL(open64)(path, flags, mode)); }
int openat(int folder, const char *path, int flags, ...) {
    OPEN(openat, folder, REAL(openat)(folder, path, flags, mode));
}
int openat64(int folder, const char *path, int flags, ...) {
    OPEN(openat64, folder, REAL(openat64)(folder, path, flags, mode));
}

static int written(int fd, char *full) {
    if (!armed) return 0;
    int flags = (int)syscall(SYS_fcntl, fd, F_GETFL);
    return flags >= 0 && (flags & O_ACCMODE) != O_RDONLY && named(fd, NULL, full);
}

#define WRITE(size, whole, half)                                                  \
    char full[PATH_MAX];                                                          \
    if (!written(fd, full)) return whole;                                         \
    int fatal = counted("write", full);                                           \
    if (fatal && how == TORN && (size) > 1) {                                     \
        half;                                                                     \
        die();                                                                    \
    }                                                                             \
    ssize_t result = whole;                                                       \
    if (fatal) die();                                                             \
    return result

ssize_t write(int fd, const void *data, size_t n) {
    WRITE(n, REAL(write)(fd, data, n), (void)!REAL(write)(fd, data, n / 2));
}
ssize_t pwrite(int fd, const void *data, size_t n, off_t place) {
    WRITE(n, REAL(pwrite)(fd, data, n, place), (void)!REAL(pwrite)(fd, data, n / 2, place));
}
ssize_t pwrite64(int fd, const void *data, size_t n, off64_t place) {
    WRITE(n, REAL(pwrite64)(fd, data, n, place), (void)!REAL(pwrite64)(fd, data, n / 2, place));
}
ssize_t writev(int fd, const struct iovec *parts, int n) {
    WRITE(n, REAL(writev)(fd, parts, n), (void)!REAL(writev)(fd, parts, n / 2));
}
ssize_t sendfile(int fd, int from, off_t *place, size_t n) {
    WRITE(n, REAL(sendfile)(fd, from, place, n), (void)!REAL(sendfile)(fd, from, place, 1));
}
ssize_t sendfile64(int fd, int from, off64_t *place, size_t n) {
    WRITE(n, REAL(sendfile64)(fd, from, place, n), (void)!REAL(sendfile64)(fd, from, place, 1));
}

#define OF_FILE(name, verb, call)                                  \
    char full[PATH_MAX];                                           \
    WRAP(int, written(fd, full), verb, full, call)

int close(int fd) { OF_FILE(close, "close", REAL(close)(fd)); }
int ftruncate(int fd, off_t size) { OF_FILE(ftruncate, "truncate", REAL(ftruncate)(fd, size)); }
int ftruncate64(int fd, off64_t size) { OF_FILE(ftruncate64, "truncate", REAL(ftruncate64)(fd, size)); }
/* Folders are flushed too, and are open for reading only. The flush itself is left out: it takes most of a
   trial's time, and a kill loses nothing that the kernel has. */
int fsync(int fd) {
    char full[PATH_MAX];
    WRAP(int, named(fd, NULL, full), "fsync", full, 0);
}

#define OF_PATH(folder, path, verb, call)                          \
    char full[PATH_MAX];                                           \
    WRAP(int, named(folder, path, full), verb, full, call)

int truncate(const char *p, off_t n) { OF_PATH(AT_FDCWD, p, "truncate", REAL(truncate)(p, n)); }
int unlink(const char *p) { OF_PATH(AT_FDCWD, p, "unlink", REAL(unlink)(p)); }
int unlinkat(int d, const char *p, int f) { OF_PATH(d, p, f ? "rmdir" : "unlink", REAL(unlinkat)(d, p, f)); }
int rmdir(const char *p) { OF_PATH(AT_FDCWD, p, "rmdir", REAL(rmdir)(p)); }
int mkdir(const char *p, mode_t m) { OF_PATH(AT_FDCWD, p, "mkdir", REAL(mkdir)(p, m)); }
int mkdirat(int d, const char *p, mode_t m) { OF_PATH(d, p, "mkdir", REAL(mkdirat)(d, p, m)); }
int chmod(const char *p, mode_t m) { OF_PATH(AT_FDCWD, p, "chmod", REAL(chmod)(p, m)); }
int link(const char *o, const char *p) { OF_PATH(AT_FDCWD, p, "link", REAL(link)(o, p)); }
int linkat(int e, const char *o, int d, const char *p, int f) {
    OF_PATH(d, p, "link", REAL(linkat)(e, o, d, p, f));
}
int symlink(const char *o, const char *p) { OF_PATH(AT_FDCWD, p, "link", REAL(symlink)(o, p)); }
int rename(const char *o, const char *p) { OF_PATH(AT_FDCWD, p, "rename", REAL(rename)(o, p)); }
int renameat(int e, const char *o, int d, const char *p) {
    OF_PATH(d, p, "rename", REAL(renameat)(e, o, d, p));
}
