/* Preloaded: storage without hard links, without renames that keep what is there (if LACKS_RENAMES
   is set), and whose folders cannot be flushed. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int refuse(int number) {
    errno = number;
    return -1;
}

int link(const char *from, const char *to) { return refuse(EPERM); }

int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags) {
    return refuse(EPERM);
}

int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags) {
    if (getenv("LACKS_RENAMES") && flags)
        return refuse(EINVAL);
    return syscall(SYS_renameat2, from_folder, from, to_folder, to, flags);
}

int fsync(int file) {
    struct stat found;
    if (!fstat(file, &found) && S_ISDIR(found.st_mode))
        return refuse(EINVAL);
    return syscall(SYS_fsync, file);
}
