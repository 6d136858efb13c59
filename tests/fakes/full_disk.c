/* A disk that fills up: preloaded into a process, lets so many writes below a folder through, and no more.

   FULL_DISK_BELOW  the folder
   FULL_DISK_STATE  a file elsewhere of two 64-bit numbers, shared by all processes that are told of it:
                    writes that still fit (negative: as many as there are), and writes that were asked for

   A write is whatever may need room: writing, making a file or a folder, and having a disk take what was written. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static volatile int64_t *state(void) {
    static volatile int64_t *shared;
    if (!shared) {
        static int (*real)(const char *, int, ...);
        const char *name = getenv("FULL_DISK_STATE");
        if (!real) real = dlsym(RTLD_NEXT, "open64");
        int file = name ? real(name, O_RDWR | O_CLOEXEC) : -1;
        if (file < 0) return NULL;
        void *found = mmap(NULL, 16, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        close(file);
        if (found == MAP_FAILED) return NULL;
        shared = found;
    }
    return shared;
}

/* Whether there is no room for one more write to this path; counts it. */
static int full(const char *path) {
    const char *below = getenv("FULL_DISK_BELOW");
    volatile int64_t *shared = below ? state() : NULL;
    if (!shared || strncmp(path, below, strlen(below))) return 0;
    __sync_fetch_and_add(&shared[1], 1);
    if (shared[0] < 0) return 0;
    if (shared[0] == 0) {
        errno = ENOSPC;
        return 1;
    }
    __sync_fetch_and_sub(&shared[0], 1);
    return 0;
}

static int full_file(int file) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return full(path);
}

/* A path from the root, without looking at what is there. */
static const char *absolute(const char *path, char *room) {
    if (path[0] == '/') return path;
    if (!getcwd(room, PATH_MAX)) return path;
    strncat(room, "/", PATH_MAX - strlen(room) - 1);
    strncat(room, path, PATH_MAX - strlen(room) - 1);
    return room;
}

static int makes(const char *path, int flags) {
    char room[PATH_MAX];
    int kept = errno;
    int new = (flags & O_CREAT) && access(path, F_OK) != 0;
    errno = kept;
    return new && full(absolute(path, room));
}

#define REAL(name, type, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = dlsym(RTLD_NEXT, name)

ssize_t write(int file, const void *data, size_t size) {
    REAL("write", ssize_t, int, const void *, size_t);
    return full_file(file) ? -1 : real(file, data, size);
}

ssize_t writev(int file, const struct iovec *parts, int number) {
    REAL("writev", ssize_t, int, const struct iovec *, int);
    return full_file(file) ? -1 : real(file, parts, number);
}

ssize_t pwrite64(int file, const void *data, size_t size, off64_t offset) {
    REAL("pwrite64", ssize_t, int, const void *, size_t, off64_t);
    return full_file(file) ? -1 : real(file, data, size, offset);
}

int fsync(int file) {
    REAL("fsync", int, int);
    return full_file(file) ? -1 : real(file);
}

int fdatasync(int file) {
    REAL("fdatasync", int, int);
    return full_file(file) ? -1 : real(file);
}

int mkdir(const char *path, mode_t mode) {
    REAL("mkdir", int, const char *, mode_t);
    char room[PATH_MAX];
    int kept = errno;
    int new = access(path, F_OK) != 0;
    errno = kept;
    return new && full(absolute(path, room)) ? -1 : real(path, mode);
}

#define OPENS(name) \
    int name(const char *path, int flags, ...) { \
        REAL(#name, int, const char *, int, ...); \
        va_list rest; \
        va_start(rest, flags); \
        int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, int) : 0; \
        va_end(rest); \
        return makes(path, flags) ? -1 : real(path, flags, mode); \
    }

OPENS(open)
OPENS(open64)

#define OPENS_AT(name) \
    int name(int folder, const char *path, int flags, ...) { \
        REAL(#name, int, int, const char *, int, ...); \
        va_list rest; \
        va_start(rest, flags); \
        int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, int) : 0; \
        va_end(rest); \
        return folder == AT_FDCWD && makes(path, flags) ? -1 : real(folder, path, flags, mode); \
    }

OPENS_AT(openat)
OPENS_AT(openat64)
