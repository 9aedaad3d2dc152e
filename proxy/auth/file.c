/* SPDX-License-Identifier: PostgreSQL */
#include "auth/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* What it has is known by its size: it is read again at each RELOAD, as no pipe can be. */
static bool is_readable(int fd, const struct stat *st)
{
	char byte;

	return S_ISREG(st->st_mode) || (S_ISCHR(st->st_mode) && read(fd, &byte, 1) == 0);
}

char *auth_read_file(const char *path, size_t max, size_t *len)
{
	struct stat st;
	char *text = NULL;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	int saved;

	if (fd < 0)
		return NULL;
	*len = 0;
	if (fstat(fd, &st) == 0) {
		if (!is_readable(fd, &st))
			errno = EINVAL;
		else if (st.st_size > (off_t)max)
			errno = EFBIG;
		else
			text = malloc((size_t)st.st_size + 1);
	}
	while (text != NULL && *len < (size_t)st.st_size) {
		ssize_t n = read(fd, text + *len, (size_t)st.st_size - *len);

		if (n == 0)
			break;
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			explicit_bzero(text, *len);
			free(text);
			text = NULL;
			break;
		}
		*len += (size_t)n;
	}
	saved = errno;
	(void)close(fd);
	errno = saved;
	return text;
}
