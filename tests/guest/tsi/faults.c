// SPDX-License-Identifier: Apache-2.0
/* A host that misbehaves: the guest's own calls end, in an error or well, and everything else goes on. */
#include "cases.h"

#include <sys/wait.h>

static int connect_error(void)
{
	union address to = loopback(AF_INET, server_port);
	int fd = tcp(AF_INET), error = connect(fd, &to.any, length(&to)) ? errno : 0;

	close(fd);
	return error;
}

static void nothing(int signal)
{
	(void)signal;
}

FAULT(connect_without_an_answer)
{
	struct sigaction action = { .sa_handler = nothing };
	union address to = loopback(AF_INET, server_port);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	struct pollfd file = { fd, POLLOUT, 0 };

	act("silent");
	FAILS(connect(fd, &to.any, length(&to)), EINPROGRESS);
	CHECK(poll(&file, 1, 1000) == 0);
	FAILS(connect(fd, &to.any, length(&to)), EALREADY);
	close(fd);
	CHECK(!sigaction(SIGALRM, &action, NULL));
	alarm(1);
	CHECK(connect_error() == EINTR);
	still_works();
}

FAULT(connect_times_out_as_the_socket_says)
{
	struct timeval timeout = { 0, 500000 };
	union address to = loopback(AF_INET, server_port);
	int fd = tcp(AF_INET);
	double start;

	CHECK(!setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout));
	act("silent");
	start = seconds();
	FAILS(connect(fd, &to.any, length(&to)), EINPROGRESS);
	CHECK(seconds() - start < 10);
	still_works();
}

FAULT(listen_without_an_answer)
{
	union address at = loopback(AF_INET, 0);
	double start;
	int fd;

	act("silent");
	for (int n = 0; n < 2; n++) {
		fd = tcp(AF_INET);
		CHECK(!bind(fd, &at.any, length(&at)));
		start = seconds();
		listen(fd, 5);
		CHECK(seconds() - start < (n ? 5 : 25));
	}
	still_works();
}

FAULT(datagram_without_an_answer)
{
	union address to = loopback(AF_INET, udp_ports[0]);
	int fd = udp(AF_INET);
	double start;

	act("silent");
	start = seconds();
	sendto(fd, "x", 1, 0, &to.any, length(&to));
	CHECK(seconds() - start < 25);
	still_works();
}

FAULT(answer_that_is_too_short)
{
	act("short");
	CHECK(connect_error() != 0);
	act("empty");
	CHECK(connect_error() != 0);
	still_works();
}

FAULT(answer_that_is_no_errno)
{
	act("positive");
	CHECK(connect_error() > 0 && connect_error() < 4096);
	act("out of range");
	CHECK(connect_error() > 0 && connect_error() < 4096);
	still_works();
}

FAULT(answer_that_it_is_in_progress)
{
	union address datagrams_to = loopback(AF_INET, udp_ports[0]);
	struct pollfd file = { .events = POLLOUT };

	act("EINPROGRESS");
	file.fd = connecting_to(server_port);
	CHECK(poll(&file, 1, 60000) == 1 && file.revents & POLLERR);
	CHECK(connect_error() == EPROTO);
	FAILS(connect(udp(AF_INET), &datagrams_to.any, length(&datagrams_to)), EPROTO);
	act("ECONNRESET"); /* which is no reset of the transport */
	FAILS(connect(udp(AF_INET), &datagrams_to.any, length(&datagrams_to)), ECONNRESET);
	still_works();
}

FAULT(answer_that_comes_twice)
{
	act("twice");
	for (int n = 0; n < 5; n++)
		echoed(serve(AF_INET, "echo"), "twice");
	still_works();
}

FAULT(answer_that_comes_too_late)
{
	union address to = loopback(AF_INET, server_port);

	act("late");
	for (int n = 0; n < 5; n++) {
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);

		FAILS(connect(fd, &to.any, length(&to)), EINPROGRESS);
		close(fd);
	}
	sleep(2);
	still_works();
}

FAULT(answer_without_a_stream)
{
	act("lie");
	union address to = loopback(AF_INET, closed_port);
	CHECK(connect(tcp(AF_INET), &to.any, length(&to)) == -1);
	still_works();
}

FAULT(listen_that_the_host_refuses)
{
	static const char *const faults[] = { "EPERM", "EADDRINUSE", "EAFNOSUPPORT", "EACCES" };
	union address at = loopback(AF_INET, 0);

	for (int n = 0; n < 4; n++) {
		int fd = tcp(AF_INET), inside;

		act(faults[n]);
		CHECK(!bind(fd, &at.any, length(&at)));
		if (n == 3) {
			FAILS(listen(fd, 5), EACCES);
			continue;
		}
		CHECK(!listen(fd, 5)); /* within the guest */
		inside = connected_to(AF_INET, port_of(fd));
		send_all(inside, "inside", 6);
		expect(accept(fd, NULL, NULL), "inside");
	}
	still_works();
}

FAULT(name_that_is_none)
{
	static const char *const faults[] = { "short", "empty", "family", "length", "junk", "nameless", "silent" };
	union address at, peer;

	for (int n = 0; n < 14; n++) {
		at = loopback(n % 2 ? AF_INET6 : AF_INET, 0);
		int listener = listener_at(&at), fd;
		socklen_t size = sizeof peer;

		dial(port_of(listener), "echo");
		act(faults[n / 2]);
		memset(&peer, 0xff, sizeof peer);
		CHECK((fd = accept(listener, &peer.any, &size)) >= 0 && size == length(&at));
		at.v4.sin_port = 0;
		if (n % 2)
			at.v6.sin6_addr = in6addr_any;
		else
			at.v4.sin_addr.s_addr = INADDR_ANY;
		CHECK(same(&peer, &at));
		size = sizeof peer;
		FAILS(getpeername(fd, &peer.any, &size), ENOTCONN);
		echoed(fd, "without a name");
		act("none");
		size = sizeof peer;
		CHECK(!getpeername(fd, &peer.any, &size) && size == length(&at));
	}
	still_works();
}

FAULT(connection_that_nobody_made)
{
	union address at = loopback(AF_INET, 0), peer;
	int listener = listener_at(&at), fd;
	socklen_t size = sizeof peer;

	act("stranger");
	CHECK(readable(listener, 10000));
	CHECK((fd = accept(listener, NULL, NULL)) >= 0);
	CHECK(!getpeername(fd, &peer.any, &size) || errno > 0);
	still_works();
}

FAULT(junk_packets)
{
	union address at = loopback(AF_INET, 0), to = loopback(AF_INET, udp_ports[0]);
	int listener = listener_at(&at), streams[10], datagrams = udp(AF_INET);

	for (int n = 0; n < 10; n++)
		streams[n] = serve(AF_INET, "hold");
	CHECK(sendto(datagrams, "x", 1, 0, &to.any, length(&to)) == 1);
	act("none");
	for (int n = 0; n < 10; n++)
		act_or_end("packets");
	for (int n = 0; n < 10; n++)
		close(streams[n]);
	close(listener);
	still_works();
}

FAULT(streams_that_are_reset)
{
	int streams[10];
	char byte;

	for (int n = 0; n < 10; n++)
		streams[n] = serve(AF_INET, "hold");
	act("reset streams");
	for (int n = 0; n < 10; n++)
		CHECK(recv(streams[n], &byte, 1, 0) <= 0);
	still_works();
}

FAULT(transport_that_is_reset)
{
	union address at = loopback(AF_INET, 8300);
	int listener = listener_at(&at), fd = serve(AF_INET, "hold"), waiting = serve(AF_INET, "hold"), status;
	char byte;

	act("none");
	if (!fork()) {
		FAILS(recv(waiting, &byte, 1, 0), ECONNRESET);
		_exit(0);
	}
	usleep(300000);
	act_without_answer("transport");
	FAILS(recv(fd, &byte, 1, 0), ECONNRESET);
	CHECK(wait(&status) > 0 && status == 0);
	dial(8300, "echo"); /* it was announced again */
	echoed(accept(listener, NULL, NULL), "after the reset");
	still_works();
}
