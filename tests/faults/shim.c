/* Counts the file operations below one folder, and kills, tears or fails at the N-th of them.
 *
 * Preloaded (LD_PRELOAD), so that it sees what pyarrow, torch and numpy write as well as Python.
 * Nothing is counted before `faults_begin`. Operations that only read are never counted.
 */
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
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum kind { OPEN = 1, WRITE = 2, SYNC = 4, SYNC_FOLDER = 8, MKDIR = 16, RENAME = 32, LINK = 64,
            UNLINK = 128, TRUNCATE = 256 };
static const char *const NAMES[] = {"open", "write", "sync", "sync-folder", "mkdir", "rename",
                                    "link", "unlink", "truncate"};
/* What happens at the N-th operation: nothing; SIGKILL before it; half of a write, then SIGKILL;
 * SIGKILL, and what was not synced is cut in half; an error once; an error from then on. */
enum mode { COUNT, KILL, TEAR, POWER, ONCE, FROM_THEN_ON };

static char root[PATH_MAX];
static size_t root_length;
static long count, at;
static int mode, error, kinds, journal = -1;
static pid_t owner;

/* Files written and not yet synced, for POWER: a descriptor of our own, and the bytes on disk. */
static struct { int file; dev_t dev; ino_t ino; off_t synced; } dirty[256];
static int dirty_count;

#define REAL(name) static __typeof__(name) *real; \
    if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

void faults_begin(const char *folder, long n, int what, int number, int counted, int log) {
    strncpy(root, folder, sizeof root - 1);
    root_length = strlen(root);
    count = 0, at = n, mode = what, error = number, kinds = counted, journal = log;
    owner = getpid();
}

/* Let the wall clock be so many seconds late. */
static long late;
void faults_clock(long seconds) { late = seconds; }
int clock_gettime(clockid_t clock, struct timespec *now) {
    REAL(clock_gettime);
    int status = real(clock, now);
    if (!status && clock == CLOCK_REALTIME) now->tv_sec -= late;
    return status;
}

static int below(const char *path) {
    return !strncmp(path, root, root_length) && (path[root_length] == '/' || !path[root_length]);
}

static int watched_path(int folder, const char *path) {
    char whole[2 * PATH_MAX];
    if (!root_length || !path) return 0;
    if (path[0] == '/') return below(path);
    char link[64], place[PATH_MAX];
    ssize_t length;
    if (folder == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
    else snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    if ((length = readlink(link, place, sizeof place - 1)) < 0) return 0;
    place[length] = 0;
    snprintf(whole, sizeof whole, "%s/%s", place, path);
    return below(whole);
}

static int watched_file(int file) {
    char link[64], place[PATH_MAX];
    if (!root_length) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, place, sizeof place - 1);
    if (length < 0) return 0;
    place[length] = 0;
    return below(place);
}

static int at_dirty(int file) {
    struct stat found;
    if (fstat(file, &found) || !S_ISREG(found.st_mode)) return -1;
    for (int i = 0; i < dirty_count; i++)
        if (dirty[i].dev == found.st_dev && dirty[i].ino == found.st_ino) return i;
    if (dirty_count == 256) return -1;
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    REAL(open);
    int own = real(link, O_RDWR | O_CLOEXEC);
    if (own < 0) return -1;
    dirty[dirty_count].file = own;
    dirty[dirty_count].dev = found.st_dev;
    dirty[dirty_count].ino = found.st_ino;
    dirty[dirty_count].synced = found.st_size;
    return dirty_count++;
}

static void note_write(int file) {
    if (mode == POWER) at_dirty(file);
}

static void note_sync(int file) {
    struct stat found;
    int i = mode == POWER ? at_dirty(file) : -1;
    if (i >= 0 && !fstat(file, &found)) dirty[i].synced = found.st_size;
}

static void die(void) {
    REAL(ftruncate);
    struct stat found;
    for (int i = 0; mode == POWER && i < dirty_count; i++)
        if (!fstat(dirty[i].file, &found) && found.st_size > dirty[i].synced)
            if (real(dirty[i].file, (found.st_size + dirty[i].synced) / 2)) continue;
    kill(owner, SIGKILL);
    for (;;) pause();
}

/* Count an operation. Returns 0 to go on, 1 to do half of it and die, 2 to fail. */
static int counted(enum kind kind) {
    if (!at && mode != COUNT) return 0;
    if (!(kind & kinds)) return 0;
    long number = __atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST);
    if (journal >= 0) {
        REAL(write);
        const char *name = NAMES[__builtin_ctz(kind)];
        char line[32];
        int length = snprintf(line, sizeof line, "%s\n", name);
        if (real(journal, line, length) < 0) return 0;
    }
    if (mode == COUNT || number < at) return 0;
    if (number > at) return mode == FROM_THEN_ON ? 2 : 0;
    if (mode == KILL || mode == POWER) die();
    return mode == TEAR ? 1 : 2;
}

#define NAME_OPERATION(kind, is_watched, call) do { \
    if (is_watched) switch (counted(kind)) { \
        case 1: call; die(); break; \
        case 2: errno = error; return -1; } \
    return call; } while (0)

static int writes(int flags) { return flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC); }

static int opened(int file, int flags) {
    if (mode == POWER && file >= 0 && (flags & O_TRUNC) && watched_file(file)) {
        int i = at_dirty(file);
        if (i >= 0) dirty[i].synced = 0;
    }
    return file;
}

#define OPEN_LIKE(name, folder, path, flags, real_call) \
    va_list rest; va_start(rest, flags); \
    mode_t rights = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0; va_end(rest); \
    REAL(name); \
    if (writes(flags) && watched_path(folder, path)) switch (counted(OPEN)) { \
        case 1: (void)!real_call; die(); break; \
        case 2: errno = error; return -1; } \
    return opened(real_call, flags);

int open(const char *path, int flags, ...) {
    OPEN_LIKE(open, AT_FDCWD, path, flags, real(path, flags, rights))
}
int open64(const char *path, int flags, ...) {
    OPEN_LIKE(open64, AT_FDCWD, path, flags, real(path, flags, rights))
}
int openat(int folder, const char *path, int flags, ...) {
    OPEN_LIKE(openat, folder, path, flags, real(folder, path, flags, rights))
}
int openat64(int folder, const char *path, int flags, ...) {
    OPEN_LIKE(openat64, folder, path, flags, real(folder, path, flags, rights))
}

#define FOPEN_LIKE(name) \
    FILE *name(const char *path, const char *how) { \
        REAL(name); \
        if (strpbrk(how, "wa+") && watched_path(AT_FDCWD, path)) switch (counted(OPEN)) { \
            case 1: (void)!real(path, how); die(); break; \
            case 2: errno = error; return NULL; } \
        return real(path, how); }
FOPEN_LIKE(fopen)
FOPEN_LIKE(fopen64)

/* A write that fails for want of room first writes what fits, as on a real disk. */
#define WRITE_LIKE(file, size, whole, half) \
    if (!watched_file(file)) return whole; \
    note_write(file); \
    switch (counted(WRITE)) { \
        case 1: (void)!half; die(); break; \
        case 2: \
            if (error == ENOSPC && count == at && (size) > 1) return half; \
            errno = error; return -1; } \
    return whole;

ssize_t write(int file, const void *data, size_t size) {
    REAL(write);
    WRITE_LIKE(file, size, real(file, data, size), real(file, data, size / 2))
}
ssize_t pwrite(int file, const void *data, size_t size, off_t place) {
    REAL(pwrite);
    WRITE_LIKE(file, size, real(file, data, size, place), real(file, data, size / 2, place))
}
ssize_t pwrite64(int file, const void *data, size_t size, off64_t place) {
    REAL(pwrite64);
    WRITE_LIKE(file, size, real(file, data, size, place), real(file, data, size / 2, place))
}
ssize_t writev(int file, const struct iovec *parts, int n) {
    REAL(writev);
    WRITE_LIKE(file, 1, real(file, parts, n), real(file, parts, n / 2))
}
size_t fwrite(const void *data, size_t size, size_t n, FILE *stream) {
    REAL(fwrite);
    if (!watched_file(fileno(stream))) return real(data, size, n, stream);
    note_write(fileno(stream));
    switch (counted(WRITE)) {
        case 1: (void)!real(data, size, n / 2, stream); fflush(stream); die(); break;
        case 2: errno = error; return 0; }
    return real(data, size, n, stream);
}

#define SYNC_LIKE(name) \
    int name(int file) { \
        REAL(name); \
        struct stat found; \
        if (!watched_file(file) || fstat(file, &found)) return real(file); \
        switch (counted(S_ISDIR(found.st_mode) ? SYNC_FOLDER : SYNC)) { \
            case 1: (void)!real(file); die(); break; \
            case 2: errno = error; return -1; } \
        note_sync(file); \
        return real(file); }
SYNC_LIKE(fsync)
SYNC_LIKE(fdatasync)
void sync(void) { /* It cannot fail, and is of all files; it begins to count once a folder is set. */
    REAL(sync);
    struct stat found;
    if (root_length) (void)counted(SYNC);
    for (int i = 0; mode == POWER && i < dirty_count; i++)
        if (!fstat(dirty[i].file, &found)) dirty[i].synced = found.st_size;
    real();
}

int ftruncate(int file, off_t size) {
    REAL(ftruncate);
    NAME_OPERATION(TRUNCATE, watched_file(file), real(file, size));
}
int ftruncate64(int file, off64_t size) {
    REAL(ftruncate64);
    NAME_OPERATION(TRUNCATE, watched_file(file), real(file, size));
}
int mkdir(const char *path, mode_t rights) {
    REAL(mkdir);
    NAME_OPERATION(MKDIR, watched_path(AT_FDCWD, path), real(path, rights));
}
int mkdirat(int folder, const char *path, mode_t rights) {
    REAL(mkdirat);
    NAME_OPERATION(MKDIR, watched_path(folder, path), real(folder, path, rights));
}
int rename(const char *old, const char *new) {
    REAL(rename);
    NAME_OPERATION(RENAME, watched_path(AT_FDCWD, new), real(old, new));
}
int renameat(int from, const char *old, int to, const char *new) {
    REAL(renameat);
    NAME_OPERATION(RENAME, watched_path(to, new), real(from, old, to, new));
}
int link(const char *old, const char *new) {
    REAL(link);
    NAME_OPERATION(LINK, watched_path(AT_FDCWD, new), real(old, new));
}
int linkat(int from, const char *old, int to, const char *new, int flags) {
    REAL(linkat);
    NAME_OPERATION(LINK, watched_path(to, new), real(from, old, to, new, flags));
}
int unlink(const char *path) {
    REAL(unlink);
    NAME_OPERATION(UNLINK, watched_path(AT_FDCWD, path), real(path));
}
int rmdir(const char *path) {
    REAL(rmdir);
    NAME_OPERATION(UNLINK, watched_path(AT_FDCWD, path), real(path));
}
int unlinkat(int folder, const char *path, int flags) {
    REAL(unlinkat);
    NAME_OPERATION(UNLINK, watched_path(folder, path), real(folder, path, flags));
}
