/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What init-oci.conf says. The parser makes no system call, so that it can be tested and fuzzed on any machine.
 * The keys are in docs/guest-contract.md.
 */
#ifndef CONFIG_H
#define CONFIG_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>

#define CONFIG_FILE "/init-oci.conf"
#define CONFIG_LIMIT (1024 * 1024) /* bytes */
#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

struct strings {
	char **items; /* NULL at the end; NULL if there are none */
	size_t count;
};

struct volume {
	const char *source; /* block device, or a virtio-fs tag, which has no slash at its beginning */
	const char *path;
	bool readonly, dax;
};

struct limit {
	const char *name;
	int resource;
	struct rlimit value;
};

struct setting {
	const char *name; /* below /proc/sys, with slashes */
	const char *value;
};

struct internet_address {
	int family; /* AF_INET or AF_INET6 */
	union {
		struct in_addr v4;
		struct in6_addr v6;
	} bytes;
};

struct device_address {
	const char *device;
	struct internet_address address;
	unsigned prefix; /* bits */
};

struct config {
	struct strings lower; /* block devices and folders, the lowest first */
	const char *fstype; /* of the block devices; NULL: try each */
	const char *upper; /* block device; NULL: a tmpfs */
	const char *upper_size; /* as tmpfs takes them; NULL: the kernel's default */
	const char *upper_inodes;
	const char *shm_size; /* NULL: the default */
	const char *hostname;
	const char *hosts; /* the file's content; NULL: a default where the image has none */
	const char *resolv_conf; /* the file's content; NULL: the image's */
	const char *stdout_prefix, *stderr_prefix; /* before each line on the console; NULL: none */
	const char *user;
	const char *cwd;
	struct strings args, env, masks, groups;
	struct volume *volumes;
	struct limit *limits;
	struct setting *settings;
	struct device_address *addresses;
	struct internet_address *gateways;
	size_t volume_count, limit_count, setting_count, address_count, gateway_count;
	uint64_t capabilities; /* a bit for each; see has_capabilities */
	bool has_capabilities; /* false: all that the kernel has */
	bool no_new_privs;
	bool tty;
	bool pid1;
	bool hold;
	bool idle; /* stay when the entrypoint has ended */
	unsigned heartbeat_ms; /* 0: no heartbeat */
};

/*
 * Parses `size` bytes of `text`, which a NUL byte follows, into `config`, which is all zero. The text is changed
 * and must outlive the result. False: `error` says why, in one line.
 */
bool config_parse(char *text, size_t size, struct config *config, char *error, size_t room);

const char *config_find_env(const struct config *config, const char *name);
bool config_append(struct strings *strings, char *item); /* false: no memory */

#endif
