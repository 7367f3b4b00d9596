// SPDX-License-Identifier: Apache-2.0
// A name server for one process, by LD_PRELOAD: getaddrinfo answers from the file $DEVMEM_TEST_NAMES, which is read at each look-up,
// so a test can move a host. A line is a name and its addresses. The address "!PATH" is silence: the look-up waits until somebody
// writes to the FIFO at PATH, unless libcurl asks, which is answered with 127.0.0.1 (a listing that works, and payload that waits).
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int lookup(const char *, const char *, const struct addrinfo *, struct addrinfo **);

int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **found)
{
	static lookup *real;
	const char *path = getenv("DEVMEM_TEST_NAMES");
	struct addrinfo *first = NULL, **end = &first;
	char line[1024], *word, *rest;
	Dl_info asker;
	int curl = dladdr(__builtin_return_address(0), &asker) && asker.dli_fname && strstr(asker.dli_fname, "libcurl");
	int error = 0;
	FILE *file;

	if (!real)
		real = (lookup *)dlsym(RTLD_NEXT, "getaddrinfo");
	file = name && path ? fopen(path, "re") : NULL;
	while (file && fgets(line, sizeof(line), file)) {
		word = strtok_r(line, " \n", &rest);
		if (!word || strcmp(word, name))
			continue;
		while ((word = strtok_r(NULL, " \n", &rest))) {
			if (word[0] == '!') {
				if (!curl) {
					int fifo = open(word + 1, O_RDONLY | O_CLOEXEC);

					if (fifo >= 0)
						close(fifo);
				}
				word = "127.0.0.1";
			}
			error = real(word, service, hints, end);
			if (error)
				break;
			while (*end)
				end = &(*end)->ai_next;
		}
		fclose(file);
		*found = first;
		return error;
	}
	if (file)
		fclose(file);
	return real(name, service, hints, found);
}
