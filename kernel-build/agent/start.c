// SPDX-License-Identifier: Apache-2.0
/* Starting a command: its user, variables, pipes or terminal. */
#define _GNU_SOURCE
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GROUPS_LIMIT 65536 /* the kernel's NGROUPS_MAX */

static bool fail(char *error, size_t room, int number, const char *what, const char *name)
{
	snprintf(error, room, "%s%s%.400s: %s", what, *name ? " " : "", name, strerror(number));
	errno = number;
	return false;
}

static bool is_number(const char *word, uint32_t *number)
{
	char *end;
	unsigned long long value = strtoull(word, &end, 10);

	*number = value;
	return *word >= '0' && *word <= '9' && !*end && value < UINT32_MAX;
}

static bool find_group(const char *word, gid_t *gid)
{
	const struct group *group;

	if (is_number(word, gid))
		return true;
	group = getgrnam(word);
	if (group)
		*gid = group->gr_gid;
	return group;
}

/* Those of /etc/group, in which the user's name is. */
static bool list_groups(struct job *job, const char *name)
{
	int count = 64;

	job->groups = malloc(count * sizeof *job->groups);
	if (job->groups && getgrouplist(name, job->gid, job->groups, &count) < 0) {
		free(job->groups);
		job->groups = count <= GROUPS_LIMIT ? malloc(count * sizeof *job->groups) : NULL;
		if (job->groups && getgrouplist(name, job->gid, job->groups, &count) < 0)
			return false;
	}
	job->group_count = count;
	return job->groups;
}

static bool find_user(struct job *job, const struct request *request, const char **home, char *error, size_t room)
{
	char *word = strdup(request->user ? request->user : "0"), *group;
	const struct passwd *user;
	bool number;

	if (!word)
		return fail(error, room, ENOMEM, "user", "");
	group = strchr(word, ':');
	if (group)
		*group++ = '\0';
	number = is_number(word, &job->uid);
	user = number ? getpwuid(job->uid) : getpwnam(word);
	if (!user && !number)
		return fail(error, room, ENOENT, "user", word);
	if (user) {
		job->uid = user->pw_uid;
		job->gid = user->pw_gid;
		*home = strdup(user->pw_dir);
	}
	if (group && !find_group(group, &job->gid))
		return fail(error, room, ENOENT, "group", group);
	if (user && !group && !list_groups(job, user->pw_name))
		return fail(error, room, ENOMEM, "groups of", word);
	if (request->group_count || !job->groups) {
		free(job->groups);
		job->groups = calloc((size_t)request->group_count + 1, sizeof *job->groups);
		job->group_count = request->group_count;
		for (uint32_t i = 0; job->groups && i < request->group_count; i++)
			if (!find_group(request->groups[i], &job->groups[i]))
				return fail(error, room, ENOENT, "group", request->groups[i]);
		if (!job->groups)
			return fail(error, room, ENOMEM, "groups", "");
		if (!request->group_count) /* a user of one group alone */
			job->groups[job->group_count++] = job->gid;
	}
	free(word);
	return true;
}

static size_t name_length(const char *variable)
{
	return strcspn(variable, "=");
}

/* A later variable of the same name takes the place of an earlier one. */
static void set_variable(char **env, size_t *count, char *variable)
{
	size_t length = name_length(variable);

	for (size_t i = 0; i < *count; i++)
		if (name_length(env[i]) == length && !strncmp(env[i], variable, length)) {
			env[i] = variable;
			return;
		}
	env[(*count)++] = variable;
}

static bool make_env(struct job *job, const struct request *request, const char *home)
{
	size_t own = 0, count = 0;
	char *home_variable = NULL;

	while (environ[own])
		own++;
	job->env = calloc(own + request->env_count + 2, sizeof *job->env);
	if (!job->env)
		return false;
	if (!request->env_alone) {
		for (size_t i = 0; i < own; i++)
			set_variable(job->env, &count, environ[i]);
		if (request->user && asprintf(&home_variable, "HOME=%s", home) < 0)
			return false;
		if (home_variable)
			set_variable(job->env, &count, home_variable);
	}
	for (uint32_t i = 0; i < request->env_count; i++)
		set_variable(job->env, &count, request->env[i]);
	return true;
}

static bool make_pipes(struct job *job)
{
	int in[2], out[2], err[2];

	if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC))
		return false;
	job->child_in = in[0];
	job->in = in[1];
	job->out = out[0];
	job->child_out = out[1];
	job->err = err[0];
	job->child_err = err[1];
	return !fcntl(job->in, F_SETFL, O_NONBLOCK) && !fcntl(job->out, F_SETFL, O_NONBLOCK) &&
	       !fcntl(job->err, F_SETFL, O_NONBLOCK);
}

bool job_prepare(struct job *job, const struct request *request, char *error, size_t room)
{
	const char *home = "/";

	*job = (struct job){ .in = -1, .out = -1, .err = -1, .child_in = -1, .child_out = -1, .child_err = -1 };
	job->with_user = request->user || request->group_count;
	if (job->with_user && !find_user(job, request, &home, error, room))
		return false;
	if (!make_env(job, request, home))
		return fail(error, room, ENOMEM, "environment", "");
	for (uint32_t i = 0; i < request->file_count; i++) {
		int number = put_file(&request->files[i]);

		if (number)
			return fail(error, room, number, "file", request->files[i].path);
	}
	if (request->tty ? !terminal_make(job, request) : !make_pipes(job))
		return fail(error, room, errno, request->tty ? "terminal" : "pipes", "");
	return true;
}

static bool take_standard_files(const struct job *job, bool tty)
{
	int slave = tty ? terminal_open(job) : -1;

	if (tty)
		return slave >= 0 && dup2(slave, 0) >= 0 && dup2(slave, 1) >= 0 && dup2(slave, 2) >= 0;
	return dup2(job->child_in, 0) >= 0 && dup2(job->child_out, 1) >= 0 && dup2(job->child_err, 2) >= 0;
}

static bool become_user(const struct job *job)
{
	return !job->with_user || (!setgroups(job->group_count, job->groups) && !setgid(job->gid) && !setuid(job->uid));
}

static _Noreturn void become_command(const struct job *job, const struct request *request, char **argv, int report)
{
	sigset_t none;
	int error;

	setsid();
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	for (int number = 1; number < NSIG; number++)
		signal(number, SIG_DFL); /* whoever started the agent may have ignored some */
	if (take_standard_files(job, request->tty) && become_user(job) && !chdir(request->cwd ? request->cwd : "/")) {
		environ = job->env; /* execvp looks for PATH there */
		execvp(argv[0], argv);
	}
	error = errno;
	if (write(report, &error, sizeof error) < 0)
		_exit(126);
	_exit(127);
}

int job_start(struct job *job, const struct request *request, uint32_t index)
{
	int report[2], error = 0;

	if (pipe2(report, O_CLOEXEC))
		return errno;
	job->pid = fork();
	if (!job->pid)
		become_command(job, request, request->commands[index].argv, report[1]);
	if (job->pid < 0)
		error = errno;
	close(report[1]);
	/* Closed by a successful exec: nothing to read. */
	if (!error && read(report[0], &error, sizeof error) != sizeof error)
		error = 0;
	close(report[0]);
	if (index == request->command_count - 1) {
		close_end(&job->child_in);
		close_end(&job->child_out);
		close_end(&job->child_err);
	}
	return error;
}
