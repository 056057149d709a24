// SPDX-License-Identifier: Apache-2.0
/* The guest's network devices: up, with the addresses and the default routes that the host named. */
#include "init-oci.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct request {
	struct nlmsghdr header;
	union {
		struct ifaddrmsg address;
		struct rtmsg route;
	} body;
	char attributes[128];
};

static void add_attribute(struct request *request, unsigned short type, const void *data, unsigned short size)
{
	struct rtattr *attribute = (struct rtattr *)((char *)request + NLMSG_ALIGN(request->header.nlmsg_len));

	attribute->rta_type = type;
	attribute->rta_len = RTA_LENGTH(size);
	memcpy(RTA_DATA(attribute), data, size);
	request->header.nlmsg_len = NLMSG_ALIGN(request->header.nlmsg_len) + RTA_ALIGN(attribute->rta_len);
}

/* The kernel answers each with an errno. */
static bool ask_kernel(struct request *request)
{
	_Alignas(struct nlmsghdr) char answer[512];
	const struct nlmsgerr *error = NLMSG_DATA((struct nlmsghdr *)answer);
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	bool got;

	if (fd < 0)
		return false;
	request->header.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
	got = send(fd, request, request->header.nlmsg_len, 0) > 0 &&
	      recv(fd, answer, sizeof answer, 0) >= (ssize_t)NLMSG_LENGTH(sizeof *error);
	close(fd);
	if (!got)
		return false;
	errno = -error->error;
	return !error->error;
}

static socklen_t bytes_of(const struct internet_address *address)
{
	return address->family == AF_INET ? sizeof address->bytes.v4 : sizeof address->bytes.v6;
}

static const char *text_of(const struct internet_address *address)
{
	static char text[INET6_ADDRSTRLEN];

	return inet_ntop(address->family, &address->bytes, text, sizeof text);
}

static bool raise_device(const char *name)
{
	struct ifreq request = { 0 };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	bool raised;

	if (fd < 0)
		return false;
	strncpy(request.ifr_name, name, IFNAMSIZ - 1);
	raised = !ioctl(fd, SIOCGIFFLAGS, &request);
	request.ifr_flags |= IFF_UP | IFF_RUNNING;
	raised = raised && !ioctl(fd, SIOCSIFFLAGS, &request);
	close(fd);
	return raised;
}

static unsigned wait_for_device(const char *name)
{
	const struct timespec pause = { .tv_nsec = 10 * 1000 * 1000 };
	unsigned index = 0;

	for (int waited = 0; !(index = if_nametoindex(name)) && waited < DEVICE_WAIT_MS; waited += 10)
		nanosleep(&pause, NULL);
	return index;
}

static void add_address(const struct device_address *wanted)
{
	struct request request = {
		.header = { .nlmsg_len = NLMSG_LENGTH(sizeof request.body.address), .nlmsg_type = RTM_NEWADDR },
		.body.address = {
			.ifa_family = wanted->address.family,
			.ifa_prefixlen = wanted->prefix,
			.ifa_flags = IFA_F_NODAD,	/* usable at once: the host gives no address twice */
			.ifa_index = wait_for_device(wanted->device),
		},
	};

	if (!request.body.address.ifa_index)
		fail("address of %s: there is no such network device", wanted->device);
	add_attribute(&request, IFA_LOCAL, &wanted->address.bytes, bytes_of(&wanted->address));
	add_attribute(&request, IFA_ADDRESS, &wanted->address.bytes, bytes_of(&wanted->address));
	if (!raise_device(wanted->device) || !ask_kernel(&request))
		fail("address %s/%u of %s: %s", text_of(&wanted->address), wanted->prefix, wanted->device,
		     strerror(errno));
}

/* `device` is for a gateway whose address, being link-local, does not say it. */
static void add_gateway(const struct internet_address *gateway, const char *device)
{
	struct request request = {
		.header = { .nlmsg_len = NLMSG_LENGTH(sizeof request.body.route), .nlmsg_type = RTM_NEWROUTE },
		.body.route = {
			.rtm_family = gateway->family,
			.rtm_table = RT_TABLE_MAIN,
			.rtm_protocol = RTPROT_BOOT,
			.rtm_scope = RT_SCOPE_UNIVERSE,
			.rtm_type = RTN_UNICAST,
		},
	};
	unsigned index = device ? if_nametoindex(device) : 0;

	add_attribute(&request, RTA_GATEWAY, &gateway->bytes, bytes_of(gateway));
	if (index && gateway->family == AF_INET6 && IN6_IS_ADDR_LINKLOCAL(&gateway->bytes.v6))
		add_attribute(&request, RTA_OIF, &index, sizeof index);
	if (!ask_kernel(&request))
		fail("gateway %s: %s", text_of(gateway), strerror(errno));
}

/* glibc gives a program no address of a name (AI_ADDRCONFIG) where the guest has none but loopback's. This one leads
 * nowhere: there is no route beside it.
 */
static void add_address_of_the_host_network(void)
{
	struct device_address own = { .prefix = 32, .address.family = AF_INET };
	int file = open("/sys/module/kernel/parameters/tsi_hijack", O_RDONLY | O_CLOEXEC);
	char value = 'N';
	bool on = file >= 0 && read(file, &value, 1) == 1 && value == 'Y';

	if (file >= 0)
		close(file);
	if (!on || !if_nametoindex("dummy0"))
		return;
	own.device = "dummy0";
	inet_pton(AF_INET, "203.0.113.1", &own.address.bytes);
	add_address(&own);
}

void configure_network(const struct config *config)
{
	if (!raise_device("lo"))
		say("init-oci: warning: lo stays down: %s", strerror(errno));
	if (!config->address_count)
		add_address_of_the_host_network();
	for (size_t i = 0; i < config->address_count; i++)
		add_address(&config->addresses[i]);
	for (size_t i = 0; i < config->gateway_count; i++)
		add_gateway(&config->gateways[i], config->address_count ? config->addresses[0].device : NULL);
}
