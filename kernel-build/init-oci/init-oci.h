/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of init-oci share. Keys, lines and steps are in docs/guest-contract.md. */
#ifndef INIT_OCI_H
#define INIT_OCI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "config.h"

#define DEVICE_WAIT_MS 2000 /* for a device that is found after PID 1 has started */

/* ---- console.c: lines; end.c: the end of the guest ---- */

void take_console(void);
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
void start_output(void); /* even after a Ctrl-S */
void pause_for(int ms);
void kill_the_rest(void);
void learn_to_power_off(void); /* once /sys is there */
_Noreturn void power_off(void);
_Noreturn void restart(void);

#define fail(...) \
	do { \
		start_output(); \
		say("init-oci: error: " __VA_ARGS__); \
		power_off(); \
	} while (0)

int64_t monotonic_ms(void);

/* ---- output.c: what the entrypoint writes, on its way to the console ---- */

enum { STREAMS = 2 }; /* its output and its errors */

/* The end that is written to, or -1 */
int open_stream(int index, const char *prefix);
int stream_to_poll(int index, short *events); /* -1: has ended */
void move_stream(int index);
int flush_rests(int64_t now);
void finish_streams(bool wait); /* what has been written, or, when all writers have been killed, until the end */

int console_write(const void *data, size_t size); /* bytes taken; 0: none now */
int console_descriptor(void);
bool is_within_line(void); /* that is how the output has left the console, */
void set_within_line(bool within); /* and our own lines begin after a line break then */

/* ---- folders.c ---- */

bool make_folders(const char *path);
bool wait_for(const char *path, struct stat *status);
void mount_at(const char *type, const char *target, unsigned long flags, const char *options);
const char *mount_any(const char *device, const char *target, const char *const *types, unsigned long flags);
void keep_writable(const char *path); /* a file system that has to be whole after the power off */
void make_read_only(void); /* those */

/* ---- memory.c ---- */

unsigned long long files_kib(void);

/* ---- root.c: the overlay; image.c: what is in it; network.c ---- */

void make_root(const struct config *config);
void enter_root(void);
void mount_devices(const struct config *config);
void mount_volumes(const struct config *config);
void mask_paths(const struct config *config, const char *below); /* a folder's path; "": all */
void write_names(const struct config *config);
void make_settings(const struct config *config);
void configure_network(const struct config *config);

/* ---- identity.c, entrypoint.c, namespace.c ---- */

struct identity {
	uid_t uid;
	gid_t gid;
	const char *home;
	gid_t *groups;
	size_t group_count;
};

struct identity resolve_user(const struct config *config);

/* Between PID 1 and the first process of the image's PID namespace. */
enum message_kind {
	MESSAGE_READY, /* up: /proc is there */
	MESSAGE_GO, /* down */
	MESSAGE_SIGNAL, /* down: number */
	MESSAGE_STARTED, /* up: the entrypoint's PID in the namespace */
	MESSAGE_FAILED, /* up: errno of why it was not run */
	MESSAGE_ENDED, /* up: as wait(2) tells it */
};

struct message {
	uint32_t kind;
	int32_t value;
};

void send_message(int socket, enum message_kind kind, int value);

struct launch {
	const struct config *config;
	struct identity who;
	int streams[STREAMS]; /* what becomes its output and its errors; -1: the console */
};

_Noreturn void become_entrypoint(const struct launch *launch, int socket);
void unblock_signals(void);

pid_t start_program(int (*become)(void *), void *argument); /* -1: not now, by errno */

/* launch is NULL when there is nothing to run any more. Returns the PID in the guest's namespace. */
pid_t start_namespace(const struct launch *launch, int *socket);

/* ---- agent.c ---- */

struct agent_request {
	uint32_t what, number;
};

struct agent_answer {
	uint32_t error, state, kind, value, pid;
};

enum { AGENT_STATUS = 1, AGENT_GO = 2, AGENT_SIGNAL = 3, AGENT_POWER_OFF = 4 };
enum { STATE_STARTING, STATE_HELD, STATE_RUNNING, STATE_ENDED };
enum { END_STATUS, END_SIGNAL, END_NOT_RUN };

#define AGENT_NOT_RUN 127 /* its exit status if its file cannot be run, now or later */

int open_agent(void); /* -1: there is none */
pid_t start_agent(int file, pid_t namespace, int *socket); /* -1: not now, by errno */

/* ---- supervise.c: PID 1 from the entrypoint on ---- */

_Noreturn void supervise(const struct launch *launch, int agent_file, pid_t namespace, int socket);

#endif
