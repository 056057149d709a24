// SPDX-License-Identifier: Apache-2.0
/* TCP from the guest to the host: connecting, names, options. */
#include "cases.h"

#include <netinet/tcp.h>
#include <sched.h>
#include <sys/un.h>

CASE(connect_ipv4)
{
	echoed(serve(AF_INET, "echo"), "hello over IPv4");
}

CASE(connect_ipv6)
{
	echoed(serve(AF_INET6, "echo"), "hello over IPv6");
}

CASE(connect_of_an_ipv6_socket_to_a_mapped_address)
{
	union address to = of("::ffff:127.0.0.1", server_port);
	int fd = tcp(AF_INET6);

	CHECK(!connect(fd, &to.any, length(&to)));
	send_all(fd, "echo\n", 5);
	echoed(fd, "mapped");
}

CASE(connect_to_nobody_is_refused)
{
	union address to = loopback(AF_INET, closed_port);

	FAILS(connect(tcp(AF_INET), &to.any, length(&to)), ECONNREFUSED);
}

CASE(connect_again_after_a_refusal)
{
	union address to = loopback(AF_INET, closed_port);
	int fd = tcp(AF_INET);

	FAILS(connect(fd, &to.any, length(&to)), ECONNREFUSED);
	to = loopback(AF_INET, server_port);
	CHECK(!connect(fd, &to.any, length(&to)));
	send_all(fd, "echo\n", 5);
	echoed(fd, "at last");
}

CASE(connect_gets_the_errno_of_the_host)
{
	union address to = of("192.0.2.1", 80);

	FAILS(connect(tcp(AF_INET), &to.any, length(&to)), ENETUNREACH);
}

CASE(connect_twice)
{
	int fd = serve(AF_INET, "echo");
	union address to = loopback(AF_INET, server_port);

	FAILS(connect(fd, &to.any, length(&to)), EISCONN);
	echoed(fd, "still there");
}

CASE(nonblocking_connect_is_under_way_and_then_writable)
{
	int fd = connecting_to(server_port), error = -1;
	struct pollfd file = { fd, POLLOUT, 0 };
	socklen_t size = sizeof error;

	CHECK(poll(&file, 1, 20000) == 1 && file.revents == POLLOUT);
	CHECK(!getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) && error == 0);
	CHECK(!fcntl(fd, F_SETFL, 0));
	send_all(fd, "echo\n", 5);
	echoed(fd, "connected");
}

CASE(nonblocking_connect_that_is_refused)
{
	int fd = connecting_to(closed_port), error = -1;
	struct pollfd file = { fd, POLLOUT, 0 };
	socklen_t size = sizeof error;

	CHECK(poll(&file, 1, 20000) == 1 && file.revents & POLLERR);
	CHECK(!getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) && error == ECONNREFUSED);
	CHECK(!getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) && error == 0);
}

/* What connect() says after one that did not wait has failed. */
static int asked_again(bool after_its_error)
{
	union address to = loopback(AF_INET, closed_port);
	int fd = connecting_to(closed_port), error = -1, again;
	struct pollfd file = { fd, POLLOUT, 0 };
	socklen_t size = sizeof error;

	CHECK(poll(&file, 1, 20000) == 1);
	if (after_its_error)
		CHECK(!getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) && error == ECONNREFUSED);
	again = connect(fd, &to.any, length(&to)) ? errno : 0;
	CHECK(!getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) && error == 0);
	to = loopback(AF_INET, server_port); /* and then it begins anew */
	CHECK(!fcntl(fd, F_SETFL, 0) && !connect(fd, &to.any, length(&to)));
	send_all(fd, "echo\n", 5);
	echoed(fd, "anew");
	return again;
}

CASE(nonblocking_connect_that_is_refused_and_asked_again)
{
	CHECK(asked_again(false) == ECONNREFUSED);
	CHECK(asked_again(true) == ECONNABORTED);
}

CASE(nonblocking_connect_asked_again)
{
	union address to = loopback(AF_INET, server_port);
	int fd = connecting_to(server_port);
	struct pollfd file = { fd, POLLOUT, 0 };

	CHECK(poll(&file, 1, 20000) == 1);
	CHECK(!connect(fd, &to.any, length(&to)) || errno == EISCONN);
	FAILS(connect(fd, &to.any, length(&to)), EISCONN);
}

CASE(getpeername_of_a_connection)
{
	int fd = serve(AF_INET, "echo"), fd6 = serve(AF_INET6, "echo");
	union address peer, to = loopback(AF_INET, server_port);
	socklen_t size = sizeof peer;

	CHECK(!getpeername(fd, &peer.any, &size) && size == sizeof peer.v4 && same(&peer, &to));
	size = sizeof peer;
	to = loopback(AF_INET6, server_port);
	CHECK(!getpeername(fd6, &peer.any, &size) && size == sizeof peer.v6 && same(&peer, &to));
}

CASE(getpeername_before_connect)
{
	union address peer;
	socklen_t size = sizeof peer;

	FAILS(getpeername(tcp(AF_INET), &peer.any, &size), ENOTCONN);
}

CASE(getsockname_of_a_connection_has_a_port)
{
	CHECK(port_of(serve(AF_INET, "echo")) > 0);
	CHECK(port_of(serve(AF_INET6, "echo")) > 0);
}

CASE(bound_port_is_kept_by_connect)
{
	union address own = loopback(AF_INET, 3456), to = loopback(AF_INET, server_port);
	int fd = tcp(AF_INET);

	CHECK(!bind(fd, &own.any, length(&own)));
	CHECK(!connect(fd, &to.any, length(&to)));
	CHECK(port_of(fd) == 3456);
}

static int number(int fd, int level, int option)
{
	int value = -1;
	socklen_t size = sizeof value;

	CHECK(!getsockopt(fd, level, option, &value, &size));
	return value;
}

CASE(domain_type_and_protocol_are_those_of_inet)
{
	int fd = serve(AF_INET, "echo"), fd6 = serve(AF_INET6, "echo"), datagrams = udp(AF_INET);

	CHECK(number(fd, SOL_SOCKET, SO_DOMAIN) == AF_INET);
	CHECK(number(fd6, SOL_SOCKET, SO_DOMAIN) == AF_INET6);
	CHECK(number(datagrams, SOL_SOCKET, SO_DOMAIN) == AF_INET);
	CHECK(number(fd, SOL_SOCKET, SO_PROTOCOL) == IPPROTO_TCP);
	CHECK(number(fd6, SOL_SOCKET, SO_PROTOCOL) == IPPROTO_TCP);
	CHECK(number(datagrams, SOL_SOCKET, SO_PROTOCOL) == IPPROTO_UDP);
	CHECK(number(fd, SOL_SOCKET, SO_TYPE) == SOCK_STREAM);
	CHECK(number(datagrams, SOL_SOCKET, SO_TYPE) == SOCK_DGRAM);
	CHECK(number(fd, SOL_SOCKET, SO_ACCEPTCONN) == 0);
}

static void set_and_get(int fd, int level, int option, int value)
{
	CHECK(!setsockopt(fd, level, option, &value, sizeof value));
	CHECK(number(fd, level, option) == value);
}

CASE(options_are_kept_before_and_after_connect)
{
	for (int when = 0; when < 2; when++) {
		int fd = when ? serve(AF_INET, "echo") : tcp(AF_INET);

		set_and_get(fd, IPPROTO_TCP, TCP_NODELAY, 1);
		set_and_get(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
		set_and_get(fd, IPPROTO_TCP, TCP_KEEPIDLE, 77);
		set_and_get(fd, IPPROTO_TCP, TCP_KEEPINTVL, 7);
		set_and_get(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, 5000);
		set_and_get(fd, IPPROTO_IP, IP_TOS, 0x10);
		set_and_get(fd, SOL_SOCKET, SO_REUSEADDR, 1);
		CHECK(number(fd, IPPROTO_TCP, TCP_MAXSEG) > 0);
	}
	set_and_get(serve(AF_INET6, "echo"), IPPROTO_IPV6, IPV6_UNICAST_HOPS, 9);
}

static int state_of(int fd)
{
	struct tcp_info info;
	socklen_t size = sizeof info;

	CHECK(!getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) && size > 100);
	return info.tcpi_state;
}

CASE(tcp_info_can_be_asked_for)
{
	union address at = loopback(AF_INET6, 0);
	int listener = listener_at(&at), fd = serve(AF_INET, "give 1"), accepted;
	double start = seconds();

	CHECK(state_of(tcp(AF_INET)) == TCP_CLOSE && state_of(listener) == TCP_LISTEN);
	CHECK(state_of(serve(AF_INET, "echo")) == TCP_ESTABLISHED);
	dial(port_of(listener), "echo");
	CHECK((accepted = accept(listener, NULL, NULL)) >= 0 && state_of(accepted) == TCP_ESTABLISHED);
	echoed(accepted, "established");
	while (state_of(fd) == TCP_ESTABLISHED && seconds() - start < 60)
		usleep(10000);
	CHECK(state_of(fd) == TCP_CLOSE_WAIT); /* the host has ended it */
}

CASE(tcp_info_of_no_bytes)
{
	struct tcp_info info = { .tcpi_state = 99 };
	socklen_t size = 0;

	CHECK(!getsockopt(serve(AF_INET, "echo"), IPPROTO_TCP, TCP_INFO, &info, &size));
	CHECK(size == 0 && info.tcpi_state == 99);
}

CASE(unknown_options_are_refused)
{
	int value = 1, fd = serve(AF_INET, "echo");
	socklen_t size = sizeof value;

	FAILS(setsockopt(fd, IPPROTO_TCP, 9999, &value, sizeof value), ENOPROTOOPT);
	FAILS(getsockopt(fd, IPPROTO_TCP, 9999, &value, &size), ENOPROTOOPT);
}

CASE(closing_without_lingering_resets)
{
	static const char *const endings[] = { "end\n", "reset\n" };

	for (int n = 0; n < 2; n++) {
		struct linger linger = { n, 0 };
		int fd = serve(AF_INET, "watch");

		expect(fd, "ok\n");
		CHECK(!setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
		close(fd);
		expect(serve(AF_INET, "ending"), endings[n]);
	}
}

CASE(shutdown_before_connect)
{
	FAILS(shutdown(tcp(AF_INET), SHUT_RDWR), ENOTCONN);
}

CASE(send_and_recv_before_connect)
{
	char byte;

	CHECK(send(tcp(AF_INET), "x", 1, MSG_NOSIGNAL) == -1 && (errno == ENOTCONN || errno == EPIPE));
	FAILS(recv(tcp(AF_INET), &byte, 1, 0), ENOTCONN);
}

CASE(listener_of_the_guest_wins)
{
	union address at = loopback(AF_INET, server_port);
	int listener = listener_at(&at), fd = connected_to(AF_INET, server_port), peer = accept(listener, NULL, NULL);

	CHECK(peer >= 0);
	send_all(fd, "in the guest", 12);
	expect(peer, "in the guest");
}

CASE(unix_sockets_stay_in_the_guest)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX, .sun_path = "/tmp.socket" };
	int listener = socket(AF_UNIX, SOCK_STREAM, 0), fd = socket(AF_UNIX, SOCK_STREAM, 0), pair[2];

	CHECK(number(fd, SOL_SOCKET, SO_DOMAIN) == AF_UNIX);
	CHECK(!bind(listener, (struct sockaddr *)&name, sizeof name) && !listen(listener, 1));
	CHECK(!connect(fd, (struct sockaddr *)&name, sizeof name));
	send_all(fd, "local", 5);
	expect(accept(listener, NULL, NULL), "local");
	CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	send_all(pair[0], "pair", 4);
	expect(pair[1], "pair");
}

CASE(another_network_namespace_is_a_network_of_its_own)
{
	union address to = loopback(AF_INET, server_port);

	CHECK(!unshare(CLONE_NEWNET));
	FAILS(connect(tcp(AF_INET), &to.any, length(&to)), ENETUNREACH);
	CHECK(number(tcp(AF_INET), SOL_SOCKET, SO_DOMAIN) == AF_INET);
}

CASE(socket_of_the_first_namespace_works_in_another)
{
	int fd = serve(AF_INET, "echo");

	CHECK(!unshare(CLONE_NEWNET));
	echoed(fd, "from before");
}

CASE(other_protocols_are_left_alone)
{
	union address to = of("192.0.2.1", 0);
	int fd = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);

	CHECK(fd >= 0 && number(fd, SOL_SOCKET, SO_PROTOCOL) == IPPROTO_ICMP);
	FAILS(connect(fd, &to.any, length(&to)), ENETUNREACH);
	FAILS(socket(AF_INET, SOCK_STREAM, IPPROTO_UDP), EPROTONOSUPPORT);
}

CASE(switch_can_be_read)
{
	char value[8] = "";
	int fd = open("/sys/module/kernel/parameters/tsi_hijack", O_RDONLY);

	CHECK(fd >= 0 && read(fd, value, sizeof value - 1) > 0 && value[0] == 'Y');
}
