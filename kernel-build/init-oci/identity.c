// SPDX-License-Identifier: Apache-2.0
/* Users and groups, by the image's /etc/passwd and /etc/group. */
#define _GNU_SOURCE
#include "init-oci.h"

#include <errno.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>

static void *checked(void *memory)
{
	if (!memory)
		fail("no memory");
	return memory;
}

static bool number(const char *text, unsigned *value)
{
	char *end;
	unsigned long long parsed;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	parsed = strtoull(text, &end, 10);
	/* (uid_t)-1 means "no change" to the kernel */
	if (*end || errno || parsed >= UINT_MAX)
		return false;
	*value = parsed;
	return true;
}

static gid_t resolve_group(const char *text)
{
	const struct group *group;
	unsigned value;

	if (number(text, &value))
		return value;
	group = getgrnam(text);
	if (!group)
		fail("group \"%s\" is not in the image's /etc/group", text);
	return group->gr_gid;
}

static const struct passwd *resolve_name(const char *text, uid_t *uid)
{
	const struct passwd *entry;

	if (number(text, uid))
		return getpwuid(*uid);
	entry = getpwnam(text);
	if (!entry)
		fail("user \"%s\" is not in the image's /etc/passwd", text);
	*uid = entry->pw_uid;
	return entry;
}

/* initgroups() of musl takes no more than 32. */
static void add_groups_of(struct identity *who, const char *name)
{
	for (int count = 32, room = 0; room < count;) {
		room = count;
		who->groups = checked(reallocarray(who->groups, room, sizeof *who->groups));
		if (getgrouplist(name, who->gid, who->groups, &count) >= 0)
			who->group_count = count;
	}
}

/* UID, NAME, either with :GID or :GROUP; and the groups beside. */
struct identity resolve_user(const struct config *config)
{
	struct identity who = { .home = "/" };
	char *user = checked(strdup(config->user ? config->user : "0")), *group = strchr(user, ':');
	const struct passwd *entry;

	if (group)
		*group++ = '\0';
	entry = resolve_name(user, &who.uid);
	if (entry) {
		who.gid = entry->pw_gid;
		who.home = checked(strdup(entry->pw_dir));
	}
	if (group)
		who.gid = resolve_group(group); /* and no other of /etc/group */
	else if (entry)
		add_groups_of(&who, entry->pw_name);
	who.groups = checked(reallocarray(who.groups, who.group_count + config->groups.count + 1, sizeof *who.groups));
	for (size_t i = 0; i < config->groups.count; i++)
		who.groups[who.group_count++] = resolve_group(config->groups.items[i]);
	free(user);
	return who;
}
