// SPDX-License-Identifier: Apache-2.0
/* Listeners on a host that refuses them, forgets them or has too many clients for them. */
#include "cases.h"

static int accept_one(int listener)
{
	int fd;

	CHECK(readable(listener, 60000));
	CHECK((fd = accept(listener, NULL, NULL)) >= 0);
	return fd;
}

CASE(burst_above_the_backlog_is_served)
{
	enum { CLIENTS = 30 };
	union address at = loopback(AF_INET, 0);
	int listener = tcp(AF_INET);
	char data[5];

	CHECK(!bind(listener, &at.any, length(&at)) && !listen(listener, 5));
	for (int n = 0; n < CLIENTS; n++)
		dial(port_of(listener), "give 5");
	CHECK(!listen(listener, 3));
	for (int n = 0; n < CLIENTS; n++)
		receive_all(accept_one(listener), data, 5);
}

FAULT(connections_that_nobody_accepts_end_with_their_listener)
{
	union address at = loopback(AF_INET, 0);
	int listener = listener_at(&at);

	for (int n = 0; n < 3; n++)
		dial(port_of(listener), "give 5");
	CHECK(readable(listener, 60000));
	close(listener);
	act("wait until nothing is accepted");
	still_works();
}

FAULT(connection_closed_before_accept_and_forgotten)
{
	union address at = loopback(AF_INET, 0), peer;
	int listener = listener_at(&at), fd;
	socklen_t size = sizeof peer;
	char data[10];

	dial(port_of(listener), "give 10");
	act("nameless");
	usleep(300000);
	CHECK((fd = accept(listener, &peer.any, &size)) >= 0 && size == sizeof peer.v4 && peer.v4.sin_port == 0);
	receive_all(fd, data, 10);
	CHECK(recv(fd, data, 1, 0) == 0);
	still_works();
}

FAULT(dual_stack_listener_of_a_host_without_ipv6)
{
	static const char *const faults[] = { "EAFNOSUPPORT of IPv6", "EPERM of IPv6" };
	union address every = of("::", 0), at = loopback(AF_INET6, 0);

	for (int n = 0; n < 2; n++) {
		int listener, only = tcp(AF_INET6), one = 1;

		act(faults[n]);
		listener = listener_at(&every);
		dial(port_of(listener), "echo");
		echoed(accept_one(listener), "over IPv4");
		close(listener_at(&at)); /* in the guest alone */
		CHECK(!setsockopt(only, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one));
		CHECK(!bind(only, &every.any, length(&every)) && !listen(only, 5));
	}
	still_works();
}

FAULT(listener_is_announced_again_until_it_is_taken)
{
	union address at = loopback(AF_INET, 8301);
	int listener = listener_at(&at), fd = serve(AF_INET, "hold");
	char byte;

	act("none");
	act_without_answer("transport, and the address is in use for a while");
	FAILS(recv(fd, &byte, 1, 0), ECONNRESET);
	dial(8301, "echo");
	echoed(accept_one(listener), "after the reset");
	still_works();
}
