// SPDX-License-Identifier: Apache-2.0
/* TCP from the host to listeners of the guest. */
#include "cases.h"

#include <sys/epoll.h>

static int accept_one(int listener)
{
	int fd = accept(listener, NULL, NULL);

	CHECK(fd >= 0);
	return fd;
}

static int any_listener(int family)
{
	union address at = loopback(family, 0);

	return listener_at(&at);
}

static void *accept_in_thread(void *listener)
{
	int fd = accept((int)(long)listener, NULL, NULL);

	return (void *)(fd < 0 ? -(long)errno : (long)fd);
}

CASE(accept_ipv4)
{
	int listener = any_listener(AF_INET);

	dial(port_of(listener), "echo");
	echoed(accept_one(listener), "from the host over IPv4");
}

CASE(accept_ipv6)
{
	int listener = any_listener(AF_INET6);

	dial(port_of(listener), "echo");
	echoed(accept_one(listener), "from the host over IPv6");
}

CASE(listener_at_every_address)
{
	union address at = of("0.0.0.0", 0);
	int listener = listener_at(&at);

	dial(port_of(listener), "echo");
	echoed(accept_one(listener), "everywhere");
}

CASE(dual_stack_listener)
{
	union address at = of("::", 0), peer;
	int listener = listener_at(&at);
	socklen_t size = sizeof peer;
	int fd;

	dial(port_of(listener), "echo");
	CHECK((fd = accept(listener, &peer.any, &size)) >= 0 && peer.any.sa_family == AF_INET6 &&
	      size == sizeof peer.v6);
	CHECK(IN6_IS_ADDR_V4MAPPED(&peer.v6.sin6_addr));
	echoed(fd, "IPv4");
	dial(port_of(listener), "over6 echo");
	size = sizeof peer;
	CHECK((fd = accept(listener, &peer.any, &size)) >= 0 && IN6_IS_ADDR_LOOPBACK(&peer.v6.sin6_addr));
	echoed(fd, "IPv6");
}

CASE(listener_at_port_0_is_found_at_the_port_it_tells)
{
	int listener = tcp(AF_INET);

	CHECK(!listen(listener, 5)); /* without bind */
	CHECK(port_of(listener) > 0);
	dial(port_of(listener), "echo");
	echoed(accept_one(listener), "found");
}

CASE(names_of_an_accepted_connection)
{
	union address at = loopback(AF_INET, 8123), own, peer, told;
	int listener = listener_at(&at), fd;
	socklen_t size = sizeof own;

	dial(8123, "echo");
	CHECK((fd = accept(listener, &told.any, &size)) >= 0 && size == sizeof told.v4);
	size = sizeof own;
	CHECK(!getsockname(fd, &own.any, &size) && size == sizeof own.v4 && same(&own, &at));
	size = sizeof peer;
	CHECK(!getpeername(fd, &peer.any, &size) && size == sizeof peer.v4 && same(&peer, &told));
	CHECK(peer.v4.sin_family == AF_INET && ntohl(peer.v4.sin_addr.s_addr) == INADDR_LOOPBACK && peer.v4.sin_port);
}

CASE(domain_and_flags_of_an_accepted_connection)
{
	int listener = any_listener(AF_INET), fd, value;
	socklen_t size = sizeof value;

	dial(port_of(listener), "echo");
	CHECK((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0);
	CHECK(fcntl(fd, F_GETFL) & O_NONBLOCK && fcntl(fd, F_GETFD) & FD_CLOEXEC);
	CHECK(!getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &value, &size) && value == AF_INET);
	CHECK(!getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &value, &size) && value == IPPROTO_TCP);
	CHECK(!getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &value, &size) && value == 0);
	CHECK(!getsockopt(listener, SOL_SOCKET, SO_ACCEPTCONN, &value, &size) && value == 1);
}

CASE(accept_of_an_empty_nonblocking_listener)
{
	int listener = any_listener(AF_INET);
	double start = seconds();

	CHECK(!fcntl(listener, F_SETFL, O_NONBLOCK));
	FAILS(accept(listener, NULL, NULL), EAGAIN);
	CHECK(seconds() - start < 2);
	dial(port_of(listener), "echo");
	CHECK(readable(listener, 10000));
	CHECK(accept(listener, NULL, NULL) >= 0);
	FAILS(accept(listener, NULL, NULL), EAGAIN);
}

CASE(accept_holds_no_lock)
{
	int listener = any_listener(AF_INET), value, port;
	socklen_t size = sizeof value;
	pthread_t acceptor;
	void *got;

	in_thread(&acceptor, accept_in_thread, listener);
	CHECK((port = port_of(listener)) > 0);
	CHECK(!getsockopt(listener, SOL_SOCKET, SO_ACCEPTCONN, &value, &size) && value == 1);
	CHECK(!readable(listener, 0));
	dial(port, "echo");
	CHECK(!pthread_join(acceptor, &got) && (long)got >= 0);
	echoed((long)got, "accepted");
}

CASE(shutdown_wakes_accept)
{
	int listener = any_listener(AF_INET);
	pthread_t acceptor;
	void *got;

	in_thread(&acceptor, accept_in_thread, listener);
	CHECK(!shutdown(listener, SHUT_RDWR));
	CHECK(!pthread_join(acceptor, &got) && (long)got == -EINVAL);
}

static void nothing(int signal)
{
	(void)signal;
}

CASE(accept_is_interrupted)
{
	struct sigaction action = { .sa_handler = nothing };
	int listener = any_listener(AF_INET);
	pid_t parent = getpid();

	CHECK(!sigaction(SIGUSR1, &action, NULL));
	if (!fork()) {
		usleep(300000);
		kill(parent, SIGUSR1);
		_exit(0);
	}
	FAILS(accept(listener, NULL, NULL), EINTR);
}

CASE(accept_times_out)
{
	struct timeval timeout = { 0, 300000 };
	int listener = any_listener(AF_INET);
	double start = seconds();

	CHECK(!setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout));
	FAILS(accept(listener, NULL, NULL), EAGAIN);
	CHECK(seconds() - start >= TIMEOUT_LASTS);
}

CASE(listener_edges)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLET };
	int listener = any_listener(AF_INET), queue = epoll_create1(0);

	CHECK(!fcntl(listener, F_SETFL, O_NONBLOCK) && !epoll_ctl(queue, EPOLL_CTL_ADD, listener, &event));
	for (int n = 0; n < 3; n++) {
		CHECK(epoll_wait(queue, &event, 1, 100) == 0);
		dial(port_of(listener), "echo");
		CHECK(epoll_wait(queue, &event, 1, 10000) == 1 && event.events == EPOLLIN);
		echoed(accept_one(listener), "edge");
		FAILS(accept(listener, NULL, NULL), EAGAIN);
	}
}

CASE(many_listeners)
{
	enum { LISTENERS = 20 };
	int listeners[LISTENERS];
	char text[20];

	/* Ports of their own: the two families may get the same one where each may be any, and dial() knows the port alone. */
	for (int n = 0; n < LISTENERS; n++) {
		union address at = loopback(n % 2 ? AF_INET : AF_INET6, 8200 + n);

		listeners[n] = listener_at(&at);
	}
	for (int n = 0; n < LISTENERS; n++)
		dial(8200 + n, "echo");
	for (int n = 0; n < LISTENERS; n++) {
		snprintf(text, sizeof text, "listener %d", n);
		echoed(accept_one(listeners[n]), text);
	}
}

CASE(many_connections_to_one_listener)
{
	int listener = any_listener(AF_INET);

	for (int n = 0; n < 40; n++)
		dial(port_of(listener), "echo");
	for (int n = 0; n < 40; n++)
		echoed(accept_one(listener), "one of many");
}

CASE(accepted_connection_carries_megabytes)
{
	enum { SIZE = 1 << 20 };
	unsigned char *data = malloc(SIZE), *wanted = malloc(SIZE);
	int listener = any_listener(AF_INET), fd;
	char what[30];

	fill(wanted, SIZE, 1);
	snprintf(what, sizeof what, "give %d", SIZE);
	dial(port_of(listener), what);
	fd = accept_one(listener);
	receive_all(fd, data, SIZE);
	CHECK(!memcmp(data, wanted, SIZE) && recv(fd, data, 1, 0) == 0);
	snprintf(what, sizeof what, "take %d", SIZE);
	dial(port_of(listener), what);
	fd = accept_one(listener);
	send_all(fd, wanted, SIZE);
	expect(fd, "ok\n");
}

CASE(listener_closed_and_opened_again_at_once)
{
	union address at = loopback(AF_INET, 8124);

	for (int n = 0; n < 5; n++) {
		int listener = listener_at(&at);

		dial(8124, "echo");
		echoed(accept_one(listener), "again");
		close(listener);
	}
}

CASE(address_in_use)
{
	union address at = loopback(AF_INET, 8125);
	int listener = listener_at(&at);

	FAILS(bind(tcp(AF_INET), &at.any, length(&at)), EADDRINUSE);
	dial(8125, "echo");
	echoed(accept_one(listener), "the first");
}

CASE(reuseport_of_two_listeners)
{
	union address at = loopback(AF_INET, 8126);
	int one = 1, fds[2];

	for (int n = 0; n < 2; n++) {
		fds[n] = tcp(AF_INET);
		CHECK(!setsockopt(fds[n], SOL_SOCKET, SO_REUSEPORT, &one, sizeof one));
		CHECK(!bind(fds[n], &at.any, length(&at)) && !listen(fds[n], 5));
	}
	dial(8126, "echo");
	struct pollfd files[] = { { fds[0], POLLIN, 0 }, { fds[1], POLLIN, 0 } };
	CHECK(poll(files, 2, 10000) == 1);
	echoed(accept_one(files[0].revents ? fds[0] : fds[1]), "one of the two");
}

CASE(listener_hears_guest_and_host)
{
	int listener = any_listener(AF_INET), inside = connected_to(AF_INET, port_of(listener)), fd;

	fd = accept_one(listener);
	send_all(inside, "guest", 5);
	expect(fd, "guest");
	dial(port_of(listener), "echo");
	echoed(accept_one(listener), "host");
}

static void names_within_the_guest(const char *host)
{
	union address at = of(host, 0), own, peer, told, to = at;
	int listener = listener_at(&at), client = tcp(at.any.sa_family), fd;
	socklen_t size = sizeof own;

	to.v4.sin_port = htons(port_of(listener));
	CHECK(!connect(client, &to.any, length(&to)));
	CHECK(!getsockname(client, &own.any, &size) && !getpeername(client, &peer.any, &size) && same(&peer, &to));
	size = sizeof told;
	CHECK((fd = accept(listener, &told.any, &size)) >= 0 && size == length(&own) && same(&told, &own));
	CHECK(!getpeername(fd, &peer.any, &size) && same(&peer, &own));
	CHECK(!getsockname(fd, &peer.any, &size) && same(&peer, &to));
	send_all(client, "within", 6);
	expect(fd, "within");
}

CASE(names_of_a_connection_within_the_guest)
{
	names_within_the_guest("127.0.0.1");
	names_within_the_guest("127.8.8.8");
	names_within_the_guest("::1");
	names_within_the_guest("203.0.113.1"); /* the one that init-oci gives it */
}

CASE(connection_closed_before_accept)
{
	char data[10];
	int listener = any_listener(AF_INET), fd;

	dial(port_of(listener), "give 10");
	usleep(300000);
	fd = accept_one(listener);
	receive_all(fd, data, 10);
	CHECK(recv(fd, data, 1, 0) == 0);
}

CASE(listener_cannot_connect)
{
	union address to = loopback(AF_INET, server_port);

	FAILS(connect(any_listener(AF_INET), &to.any, length(&to)), EISCONN);
}

CASE(listener_has_no_data)
{
	int listener = any_listener(AF_INET);
	char byte;

	FAILS(recv(listener, &byte, 1, 0), ENOTCONN);
	FAILS(send(listener, &byte, 1, MSG_NOSIGNAL), EPIPE);
}

CASE(accept_of_what_does_not_listen)
{
	FAILS(accept(tcp(AF_INET), NULL, NULL), EINVAL);
}
