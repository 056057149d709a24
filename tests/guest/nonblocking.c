// SPDX-License-Identifier: Apache-2.0
/* nonblocking PROGRAM [ARG]...: runs a program whose standard input and output do not block. */
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	if (argc < 2 || fcntl(0, F_SETFL, O_NONBLOCK) || fcntl(1, F_SETFL, O_NONBLOCK)) {
		perror("nonblocking");
		return 1;
	}
	execvp(argv[1], argv + 1);
	perror(argv[1]);
	return 1;
}
