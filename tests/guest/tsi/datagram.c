// SPDX-License-Identifier: Apache-2.0
/* UDP: to the host's servers, and within the guest. */
#include "cases.h"

#include <netinet/udp.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>

static void send_to(int fd, const char *text, const union address *to)
{
	CHECK(sendto(fd, text, strlen(text), 0, &to->any, length(to)) == (ssize_t)strlen(text));
}

static void received_from(int fd, const char *text, const union address *from)
{
	char got[200] = "";
	union address source;
	socklen_t size = sizeof source;

	CHECK(readable(fd, 10000));
	CHECK(recvfrom(fd, got, sizeof got - 1, 0, &source.any, &size) == (ssize_t)strlen(text));
	CHECK(!strcmp(got, text));
	CHECK(size == length(from) && same(&source, from));
}

CASE(datagram_and_its_answer)
{
	union address to = loopback(AF_INET, udp_ports[0]);
	int fd = udp(AF_INET);

	send_to(fd, "hello", &to);
	received_from(fd, "0:hello", &to);
}

/* UDP takes such an address for one of IPv4, and on a socket of IPv6 for none. */
CASE(datagram_to_an_address_without_a_family)
{
	union address to = loopback(AF_INET, udp_ports[0]), none = to, to6 = loopback(AF_INET6, udp_ports[1]);
	int fd = udp(AF_INET), fd6 = udp(AF_INET6);

	none.any.sa_family = AF_UNSPEC;
	send_to(fd, "hello", &none);
	received_from(fd, "0:hello", &to);
	CHECK(!connect(fd6, &to6.any, length(&to6)));
	send_to(fd6, "hello", &none);
	received_from(fd6, "1:hello", &to6);
}

CASE(datagram_over_ipv6)
{
	union address to = loopback(AF_INET6, udp_ports[0]);
	int fd = udp(AF_INET6);

	send_to(fd, "hello", &to);
	received_from(fd, "0:hello", &to);
}

CASE(connected_datagrams)
{
	union address to = loopback(AF_INET, udp_ports[0]), peer;
	socklen_t size = sizeof peer;
	int fd = udp(AF_INET);

	CHECK(!connect(fd, &to.any, length(&to)));
	CHECK(!getpeername(fd, &peer.any, &size) && same(&peer, &to));
	for (int n = 0; n < 3; n++) {
		CHECK(send(fd, "query", 5, 0) == 5);
		received_from(fd, "0:query", &to);
	}
}

CASE(connected_socket_hears_no_other)
{
	union address to = loopback(AF_INET, udp_ports[0]), other = loopback(AF_INET, udp_ports[1]);
	int fd = udp(AF_INET);

	CHECK(!connect(fd, &to.any, length(&to)));
	send_to(fd, "hello", &other);
	CHECK(!readable(fd, 500));
	send_to(fd, "hello", &to);
	received_from(fd, "0:hello", &to);
	CHECK(!connect(fd, &other.any, length(&other)));
	send_to(fd, "hello", &other);
	received_from(fd, "1:hello", &other);
}

CASE(connected_datagrams_over_ipv6)
{
	union address to = loopback(AF_INET6, udp_ports[1]);
	int fd = udp(AF_INET6);

	CHECK(!connect(fd, &to.any, length(&to)));
	CHECK(write(fd, "query", 5) == 5);
	received_from(fd, "1:query", &to);
}

CASE(several_peers_have_their_own_names)
{
	union address to[3];
	int fd = udp(AF_INET);
	bool seen[3] = { false };

	for (int n = 0; n < 3; n++) {
		to[n] = loopback(AF_INET, udp_ports[n]);
		send_to(fd, "who", &to[n]);
	}
	for (int n = 0; n < 3; n++) {
		char got[20] = "";
		union address source;
		socklen_t size = sizeof source;

		CHECK(readable(fd, 10000));
		CHECK(recvfrom(fd, got, sizeof got - 1, 0, &source.any, &size) == 5);
		CHECK(got[0] >= '0' && got[0] <= '2' && same(&source, &to[got[0] - '0']));
		seen[got[0] - '0'] = true;
	}
	CHECK(seen[0] && seen[1] && seen[2]);
}

CASE(options_of_connected_datagrams)
{
	union address to = loopback(AF_INET, udp_ports[0]);
	int fd = udp(AF_INET), value = -1, one = 1;
	socklen_t size = sizeof value;

	CHECK(!connect(fd, &to.any, length(&to)) && send(fd, "x", 1, 0) == 1);
	CHECK(!getsockopt(fd, IPPROTO_UDP, UDP_CORK, &value, &size) && value == 0);
	CHECK(!getsockopt(fd, IPPROTO_IP, IP_TOS, &value, &size));
	CHECK(!getsockopt(fd, IPPROTO_IP, IP_MTU_DISCOVER, &value, &size));
	CHECK(!setsockopt(fd, IPPROTO_IP, IP_RECVERR, &one, sizeof one));
	CHECK(!getsockopt(fd, SOL_SOCKET, SO_RCVBUF, &value, &size) && value > 0);
	FAILS(getsockopt(fd, IPPROTO_UDP, 9999, &value, &size), ENOPROTOOPT);
}

CASE(reuseport_of_datagrams)
{
	union address to = loopback(AF_INET, udp_ports[0]);
	int fd = udp(AF_INET), one = 1, value = 0;
	socklen_t size = sizeof value;

	CHECK(!setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one));
	CHECK(!setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one));
	send_to(fd, "x", &to);
	CHECK(!setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one));
	CHECK(!getsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &value, &size) && value == 1);
	received_from(fd, "0:x", &to);
}

static int datagram_server(int port)
{
	union address at = loopback(AF_INET, port);
	int fd = udp(AF_INET);

	CHECK(!bind(fd, &at.any, length(&at)));
	return fd;
}

CASE(datagram_server_in_the_guest_is_woken)
{
	int server = datagram_server(9053), client = udp(AF_INET);
	union address to = loopback(AF_INET, 9053);

	if (!fork()) {
		usleep(300000);
		send_to(client, "inside", &to);
		_exit(0);
	}
	CHECK(readable(server, 10000));
	char got[10] = "";
	CHECK(recv(server, got, sizeof got, 0) == 6 && !strcmp(got, "inside"));
}

CASE(datagram_server_in_the_guest_wins)
{
	int server = datagram_server(udp_ports[0]), client = udp(AF_INET);
	union address to = loopback(AF_INET, udp_ports[0]), source;
	socklen_t size = sizeof source;
	char got[10] = "";

	CHECK(!connect(client, &to.any, length(&to)) && send(client, "inside", 6, 0) == 6);
	CHECK(readable(server, 10000));
	CHECK(recvfrom(server, got, sizeof got, 0, &source.any, &size) == 6 && !strcmp(got, "inside"));
	send_to(server, "back", &source);
	received_from(client, "back", &to);
}

CASE(one_socket_talks_to_guest_and_host)
{
	int server = datagram_server(9054), fd = udp(AF_INET);
	union address inside = loopback(AF_INET, 9054), outside = loopback(AF_INET, udp_ports[1]);
	char got[10] = "";

	send_to(fd, "host", &outside);
	send_to(fd, "guest", &inside);
	CHECK(readable(server, 10000) && recv(server, got, sizeof got, 0) == 5 && !strcmp(got, "guest"));
	received_from(fd, "1:host", &outside);
}

CASE(sizes_of_datagrams)
{
	static const int sizes[] = { 0, 1, 512, 1400, 3700 };
	union address to = loopback(AF_INET, udp_ports[0]);
	static char data[4000], got[4000];
	int fd = udp(AF_INET);

	memset(data, 'd', sizeof data);
	for (size_t n = 0; n < sizeof sizes / sizeof *sizes; n++) {
		CHECK(sendto(fd, data, sizes[n], 0, &to.any, length(&to)) == sizes[n]);
		CHECK(readable(fd, 10000));
		CHECK(recv(fd, got, sizeof got, 0) == sizes[n] + 2 && !memcmp(got + 2, data, sizes[n]));
	}
}

CASE(large_datagram_to_the_host)
{
	union address to = loopback(AF_INET, udp_ports[0]);
	static char data[60000];
	char got[100] = "";
	int fd = udp(AF_INET);

	memcpy(data, "size", 4);
	CHECK(sendto(fd, data, sizeof data, 0, &to.any, length(&to)) == sizeof data);
	CHECK(readable(fd, 10000));
	CHECK(recv(fd, got, sizeof got, 0) == 7 && !strcmp(got, "0:60000"));
	FAILS(sendto(fd, data, 70000, 0, &to.any, length(&to)), EMSGSIZE);
}

CASE(messages_of_datagrams)
{
	union address to = loopback(AF_INET, udp_ports[0]), from;
	struct iovec parts[] = { { "ab", 2 }, { "cd", 2 } };
	struct msghdr out = { .msg_name = &to, .msg_namelen = length(&to), .msg_iov = parts, .msg_iovlen = 2 };
	char got[3] = "";
	struct iovec into = { got, 2 };
	struct msghdr in = { .msg_name = &from, .msg_namelen = sizeof from, .msg_iov = &into, .msg_iovlen = 1 };
	struct mmsghdr many[] = { { .msg_hdr = out }, { .msg_hdr = out } };
	int fd = udp(AF_INET), waiting = 0;

	CHECK(sendmsg(fd, &out, 0) == 4);
	CHECK(readable(fd, 10000));
	CHECK(!ioctl(fd, FIONREAD, &waiting) && waiting == 6);
	CHECK(recvmsg(fd, &in, MSG_PEEK) == 2);
	in.msg_namelen = sizeof from;
	CHECK(recvmsg(fd, &in, 0) == 2 && in.msg_flags & MSG_TRUNC && !strcmp(got, "0:") && same(&from, &to));
	CHECK(sendmmsg(fd, many, 2, 0) == 2);
	received_from(fd, "0:abcd", &to);
	received_from(fd, "0:abcd", &to);
}

CASE(waiting_for_datagrams)
{
	struct timeval timeout = { 0, 300000 };
	union address to = loopback(AF_INET, udp_ports[0]);
	int fd = udp(AF_INET);
	double start;
	char byte;

	CHECK(!connect(fd, &to.any, length(&to)));
	FAILS(recv(fd, &byte, 1, MSG_DONTWAIT), EAGAIN);
	CHECK(!setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout));
	start = seconds();
	FAILS(recv(fd, &byte, 1, 0), EAGAIN);
	CHECK(seconds() - start >= TIMEOUT_LASTS);
	CHECK(!readable(fd, 100));
}

CASE(datagrams_wake_epoll)
{
	union address to = loopback(AF_INET, udp_ports[2]);
	struct epoll_event event = { .events = EPOLLIN | EPOLLET };
	int fd = udp(AF_INET), queue = epoll_create1(0);

	CHECK(!epoll_ctl(queue, EPOLL_CTL_ADD, fd, &event));
	for (int n = 0; n < 3; n++) {
		send_to(fd, "edge", &to);
		CHECK(epoll_wait(queue, &event, 1, 10000) == 1 && event.events & EPOLLIN);
		received_from(fd, "2:edge", &to);
	}
}

CASE(datagram_socket_changes_its_peer)
{
	union address first = loopback(AF_INET, udp_ports[0]), second = loopback(AF_INET, udp_ports[1]), peer;
	struct sockaddr nobody = { .sa_family = AF_UNSPEC };
	socklen_t size = sizeof peer;
	int fd = udp(AF_INET);

	CHECK(!connect(fd, &first.any, length(&first)) && send(fd, "x", 1, 0) == 1);
	received_from(fd, "0:x", &first);
	CHECK(!connect(fd, &second.any, length(&second)) && send(fd, "y", 1, 0) == 1);
	received_from(fd, "1:y", &second);
	CHECK(!connect(fd, &nobody, sizeof nobody));
	FAILS(getpeername(fd, &peer.any, &size), ENOTCONN);
	FAILS(send(fd, "z", 1, 0), EDESTADDRREQ);
	send_to(fd, "w", &first);
	received_from(fd, "0:w", &first);
}

CASE(a_hundred_datagram_sockets)
{
	union address to = loopback(AF_INET, udp_ports[0]);
	int fds[100];

	for (int n = 0; n < 100; n++) {
		fds[n] = udp(AF_INET);
		send_to(fds[n], "one of a hundred", &to);
	}
	for (int n = 0; n < 100; n++)
		received_from(fds[n], "0:one of a hundred", &to);
}

/* getaddrinfo() of glibc asks so which source an IPv4 address would have, and aborts if it is no mapped one. */
CASE(source_of_a_mapped_peer_is_mapped)
{
	union address to = of("::ffff:127.0.0.1", udp_ports[0]), elsewhere = of("::ffff:192.0.2.1", 53), own;
	socklen_t size = sizeof own;
	int fd = udp(AF_INET6), stream = tcp(AF_INET6);

	CHECK(!connect(fd, &to.any, length(&to)));
	CHECK(!getsockname(fd, &own.any, &size) && IN6_IS_ADDR_V4MAPPED(&own.v6.sin6_addr));
	if (!connect(fd, &elsewhere.any, length(&elsewhere)))
		CHECK(!getsockname(fd, &own.any, &size) && IN6_IS_ADDR_V4MAPPED(&own.v6.sin6_addr));
	to = of("::ffff:127.0.0.1", server_port);
	CHECK(!connect(stream, &to.any, length(&to)));
	CHECK(!getsockname(stream, &own.any, &size) && IN6_IS_ADDR_V4MAPPED(&own.v6.sin6_addr));
}
