// SPDX-License-Identifier: Apache-2.0
/*
 * tsi-random SECONDS SEED TCP_PORT CLOSED_PORT UDP_PORT UDP_PORT UDP_PORT: random calls on sockets, by processes with
 * several threads each that share their files. In every other process allocations of the kernel fail, where it has fault
 * injection. It says how many calls there were, and of how many processes one could not be killed.
 */
#define _GNU_SOURCE

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define FILES 12
#define THREADS 3
#define CALLS 150 /* of a thread */
#define PROCESSES 3 /* at a time */
#define LIFE 4 /* seconds of a process */
#define PATIENCE 60 /* seconds until one that was killed is gone */

static int ports[6];
static int files[FILES];
static bool failing;
static unsigned long *calls;
static __thread unsigned int seed;

static unsigned int below(unsigned int limit)
{
	return rand_r(&seed) % limit;
}

static int any_file(void)
{
	return __atomic_load_n(&files[below(FILES)], __ATOMIC_RELAXED);
}

static void keep(int fd)
{
	int old;

	if (fd < 0)
		return;
	old = __atomic_exchange_n(&files[below(FILES)], fd, __ATOMIC_RELAXED);
	if (old > 2)
		close(old);
}

/* The next allocations of this thread succeed until one does not. */
static void fail_soon(void)
{
	char text[20];
	int fd = open("/proc/thread-self/fail-nth", O_WRONLY);

	if (fd < 0)
		return;
	snprintf(text, sizeof text, "%u", 1 + below(12));
	if (write(fd, text, strlen(text)) < 0)
		failing = false;
	close(fd);
}

static socklen_t any_address(struct sockaddr_storage *to)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)to;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)to;
	static const char *const hosts[] = {
		"127.0.0.1", "127.0.0.1", "127.0.0.2", "0.0.0.0", "192.0.2.1", "224.0.0.1"
	};
	static const char *const hosts6[] = { "::1", "::1", "::", "::ffff:127.0.0.1", "2001:db8::1", "ff02::1" };
	int port = below(8) ? ports[below(6)] : (int)below(65536);

	memset(to, 0, sizeof *to);
	if (below(2)) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons(port);
		inet_pton(AF_INET, hosts[below(6)], &v4->sin_addr);
		if (!below(30))
			v4->sin_family = below(3) ? AF_UNSPEC : AF_UNIX;
		return below(30) ? sizeof *v4 : below(sizeof *to);
	}
	v6->sin6_family = AF_INET6;
	v6->sin6_port = htons(port);
	inet_pton(AF_INET6, hosts6[below(6)], &v6->sin6_addr);
	return below(30) ? sizeof *v6 : below(sizeof *to);
}

static void message(int fd, bool out)
{
	static char buffer[1 << 16];
	struct sockaddr_storage name = { 0 };
	char control[200];
	struct iovec parts[] = { { buffer, below(3000) }, { buffer, below(100) }, { buffer, below(sizeof buffer) } };
	struct msghdr header = { .msg_iov = parts, .msg_iovlen = below(4) };
	static const int odd[] = { MSG_PEEK, MSG_WAITALL, MSG_TRUNC, MSG_MORE, MSG_ERRQUEUE, MSG_OOB, MSG_FASTOPEN };
	int flags = 0;

	header.msg_name = below(2) ? &name : NULL;
	header.msg_namelen = out ? any_address(&name) : sizeof name;
	header.msg_control = out ? NULL : control;
	header.msg_controllen = out ? 0 : below(sizeof control);
	for (size_t n = 0; n < sizeof odd / sizeof *odd; n++)
		flags |= below(10) ? 0 : odd[n];
	flags |= below(3) ? MSG_DONTWAIT : 0;
	if (out)
		sendmsg(fd, &header, flags | MSG_NOSIGNAL);
	else
		recvmsg(fd, &header, flags);
}

static void option(int fd)
{
	static const int levels[] = { SOL_SOCKET, SOL_SOCKET, IPPROTO_TCP, IPPROTO_IP, IPPROTO_IPV6, IPPROTO_UDP };
	int level = levels[below(6)], name = below(70), value[4] = { below(4), below(1000), 0, 0 };
	socklen_t size = below(10) ? sizeof *value : below(sizeof value);
	struct linger linger = { 1, below(2) };

	if (level == SOL_SOCKET && (name == SO_BINDTODEVICE || name == SO_SNDBUFFORCE || name == SO_RCVBUFFORCE))
		return;
	if (!below(5))
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
	else if (below(2))
		setsockopt(fd, level, name, value, size);
	else
		getsockopt(fd, level, name, value, &size);
}

static void name_of(int fd)
{
	struct sockaddr_storage name;
	socklen_t size = below(10) ? sizeof name : below(sizeof name);

	if (below(2))
		getsockname(fd, (struct sockaddr *)&name, &size);
	else
		getpeername(fd, (struct sockaddr *)&name, &size);
}

static void pass(int fd)
{
	int pair[2];
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof fd)] = { 0 };
	struct cmsghdr *rights = (struct cmsghdr *)control;
	char byte = 0;
	struct iovec part = { &byte, 1 };
	struct msghdr header = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control
	};

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
		return;
	*rights = (struct cmsghdr){ CMSG_LEN(sizeof fd), SOL_SOCKET, SCM_RIGHTS };
	memcpy(CMSG_DATA(rights), &fd, sizeof fd);
	sendmsg(pair[0], &header, MSG_DONTWAIT);
	close(pair[0]);
	close(pair[1]);
}

static void wait_for(int fd)
{
	struct pollfd file = { fd, POLLIN | POLLOUT, 0 };
	struct epoll_event event = { .events = EPOLLIN | EPOLLOUT | EPOLLET };
	int queue;

	poll(&file, 1, below(50));
	queue = epoll_create1(0);
	epoll_ctl(queue, EPOLL_CTL_ADD, fd, &event);
	epoll_wait(queue, &event, 1, below(50));
	close(queue);
}

static void data_of(int fd)
{
	int pipes[2], waiting;
	off_t zero = 0;

	switch (below(4)) {
	case 0:
		ioctl(fd, FIONREAD, &waiting);
		ioctl(fd, TIOCOUTQ, &waiting);
		break;
	case 1:
		if (pipe2(pipes, O_NONBLOCK))
			return;
		splice(fd, NULL, pipes[1], NULL, 5000, SPLICE_F_NONBLOCK);
		splice(pipes[0], NULL, fd, NULL, 5000, SPLICE_F_NONBLOCK);
		close(pipes[0]);
		close(pipes[1]);
		break;
	case 2:
		waiting = open("/proc/self/exe", O_RDONLY);
		sendfile(fd, waiting, &zero, below(100000));
		close(waiting);
		break;
	default:
		fcntl(fd, F_SETFL, below(2) ? O_NONBLOCK : O_NONBLOCK | O_ASYNC);
	}
}

/* What the host's server does with a connection is the first line's to say. */
static void ask(int fd)
{
	static const char *const lines[] = { "echo\n", "give 100000\n", "take 5000\n", "hold\n", "reset\n" };
	char line[50];

	if (below(4))
		snprintf(line, sizeof line, "%s", lines[below(5)]);
	else
		snprintf(line, sizeof line, "dial %d echo\n", ports[5]);
	send(fd, line, strlen(line), MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void call(void)
{
	static const int kinds[] = { SOCK_STREAM, SOCK_STREAM, SOCK_DGRAM };
	struct sockaddr_storage to;
	socklen_t size;
	int fd = any_file();

	switch (below(20)) {
	case 0:
	case 1:
		keep(socket(below(20) ? (below(2) ? AF_INET : AF_INET6) : 46,
			    kinds[below(3)] | (below(3) ? SOCK_NONBLOCK : 0), 0));
		break;
	case 2:
		size = any_address(&to);
		bind(fd, (struct sockaddr *)&to, size);
		break;
	case 3:
	case 4:
	case 5:
		size = any_address(&to);
		if (!connect(fd, (struct sockaddr *)&to, size) || errno == EINPROGRESS)
			ask(fd);
		break;
	case 6:
		listen(fd, below(5));
		break;
	case 7:
		size = sizeof to;
		keep(accept4(fd, (struct sockaddr *)&to, &size, below(2) ? SOCK_NONBLOCK : 0));
		break;
	case 8:
	case 9:
	case 10:
		message(fd, true);
		break;
	case 11:
	case 12:
	case 13:
		message(fd, false);
		break;
	case 14:
		shutdown(fd, below(4));
		break;
	case 15:
		option(fd);
		break;
	case 16:
		name_of(fd);
		break;
	case 17:
		below(3) ? keep(dup(fd)) : pass(fd);
		break;
	case 18:
		wait_for(fd);
		break;
	default:
		data_of(fd);
	}
}

static void *run(void *number)
{
	seed = (unsigned int)(long)number;
	for (int n = 0; n < CALLS; n++) {
		if (failing)
			fail_soon();
		call();
		__atomic_add_fetch(calls, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

static pid_t start(unsigned int number)
{
	pthread_t threads[THREADS];
	pid_t child = fork();

	if (child)
		return child;
	setpgid(0, 0);
	alarm(LIFE);
	failing = number % 2;
	seed = number;
	ports[5] = 20000 + number % 1000;
	for (int n = 0; n < FILES; n++)
		files[n] = socket(n % 2 ? AF_INET : AF_INET6, n % 3 ? SOCK_STREAM : SOCK_DGRAM, 0);
	for (int n = 0; n < THREADS; n++)
		if (pthread_create(&threads[n], NULL, run, (void *)(long)(number * THREADS + n)))
			_exit(1);
	for (int n = 0; n < THREADS; n++)
		pthread_join(threads[n], NULL);
	_exit(0);
}

int main(int argc, char **argv)
{
	unsigned long processes = 0, stuck = 0;
	pid_t children[PROCESSES] = { 0 };
	time_t began[PROCESSES], end;

	if (argc != 8)
		return 2;
	calls = mmap(NULL, sizeof *calls, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	end = time(NULL) + atoi(argv[1]);
	for (int n = 0; n < 5; n++)
		ports[n] = atoi(argv[3 + n]);
	signal(SIGPIPE, SIG_IGN);
	for (bool left = true; left || time(NULL) < end;) {
		left = false;
		for (int n = 0; n < PROCESSES; n++) {
			if (!children[n] && time(NULL) < end) {
				children[n] = start(atoi(argv[2]) + processes++);
				began[n] = time(NULL);
			}
			if (children[n] > 0 && waitpid(children[n], NULL, WNOHANG) == children[n])
				children[n] = 0;
			if (children[n] > 0 && time(NULL) > began[n] + LIFE + PATIENCE) {
				stuck++;
				children[n] = -1;
			}
			left |= children[n] > 0;
		}
		usleep(20000);
	}
	printf("random: %lu calls, %lu processes, %lu stuck\n", *calls, processes, stuck);
	return 0;
}
