/* SPDX-License-Identifier: Apache-2.0 */
/* What the agent's files share. The protocol is in docs/guest-contract.md. */
#ifndef AGENT_H
#define AGENT_H

#include <sys/types.h>

#include "frame.h"

#ifndef AGENT_WORKERS
#define AGENT_WORKERS 64 /* EXEC, READ and WRITE at once; further callers wait in turn */
#endif
#ifndef SILENCE_MS
#define SILENCE_MS 30000 /* a caller that does not come to its request is gone */
#endif
#ifndef PING_MS
#define PING_MS 15000 /* after so long a silence the caller is asked whether it is there, and again, */
#define PINGS 3 /* and when it has let so many questions pass it is gone */
#endif
#define CONTROL_ROOM 256 /* bytes of a channel's room, kept for frames that are no stream's */
#ifndef GOODBYE_MS
#define GOODBYE_MS 30000 /* for the caller to read the end and close */
#endif

/* One connection in a process of its own: what has come so far and what is yet to go. It never waits for the socket. */
struct channel {
	int fd;
	struct hello caller;
	bool ended; /* the caller closed its side, or nothing more is to be sent to it */
	bool broken; /* what came is no frame */
	bool pong_due;
	int pings; /* how many it has not answered */
	long since_ms; /* when something came last, or the last of these PINGs went */
	size_t in_size, out_size, out_sent;
	uint8_t in[FRAME_HEADER + DATA_LIMIT];
	uint8_t out[2 * (FRAME_HEADER + DATA_LIMIT) + 4096];
};

/* channel.c */
void channel_receive(struct channel *channel);
bool channel_next(struct channel *channel, struct frame *frame); /* answers PING by itself */
void channel_drop(struct channel *channel, const struct frame *frame);
size_t channel_room(const struct channel *channel); /* bytes of payload that can be put now */
bool channel_idle(const struct channel *channel); /* nothing is left to send */
uint8_t *channel_space(struct channel *channel);
void channel_put(struct channel *channel, uint32_t kind, const void *data, size_t size);
void channel_put_credit(struct channel *channel, uint32_t stream, uint32_t bytes);
void channel_put_error(struct channel *channel, int error, const char *text); /* always fits, once */
void channel_send(struct channel *channel); /* as much as goes now */
int channel_check_alive(struct channel *channel); /* milliseconds until it must be called again; sends PING */
void channel_goodbye(struct channel *channel); /* sends what is left and waits for the caller to close */
/* Of a connection that has no channel, and on which next to nothing was sent: it fits, or the caller is gone. */
void send_frame(int fd, uint32_t kind, const uint8_t *payload, size_t size);
void send_error(int fd, int error, const char *text);

/* util.c */
long now_ms(void);
uint64_t now_us(void);
void reap_all(long limit_ms); /* waits for all children, but no longer */
void close_end(int *fd); /* closes it, if it is open, and makes it -1 */
/* Writes `content` beside `path` and renames it; 0 or an errno. */
int put_file(const struct put_file *file);
int write_all(int fd, const uint8_t *data, size_t size);
int open_beside(const char *path, char *temporary, size_t room);
int finish_beside(int fd, const char *temporary, const char *path, uint32_t mode, uint32_t uid, uint32_t gid);

/* worker.c: EXEC, READ and WRITE, in a process for each */
extern bool worker_stopped; /* the agent ends this connection: SIGTERM came */
void serve_caller(int fd);
int worker_signals(void);
bool worker_take_signals(int signals); /* true: a child ended */

/* exec.c, start.c */
void serve_exec(struct channel *channel, const struct request *request);

struct job {
	pid_t pid;
	int in, out, err; /* our ends; -1: closed. With a terminal `in` and `out` are its master */
	int child_in, child_out, child_err; /* the commands' ends, until the last one has started */
	char **env;
	uid_t uid;
	gid_t gid;
	gid_t *groups;
	size_t group_count;
	bool with_user;
};

bool job_prepare(struct job *job, const struct request *request, char *error, size_t room); /* false: errno, error */
int job_start(struct job *job, const struct request *request, uint32_t index); /* 0, or the errno of why not */

/* terminal.c */
bool terminal_make(struct job *job, const struct request *request);
int terminal_open(const struct job *job);
bool terminal_end_input(const struct job *job);
bool terminal_resize(const struct job *job, uint32_t rows, uint32_t columns);

/* file.c */
void serve_read(struct channel *channel, const struct request *request);
void serve_write(struct channel *channel, const struct request *request);

/* What RESTORED changes by way of a disk or another process. */
struct renewal {
	char *machine_id, *notice_file; /* NULL: not asked for */
	uint32_t notice_signal; /* 0: not asked for */
};

/* control.c: the requests that the listening process answers itself */
struct control {
	int init_fd; /* to init-oci, -1: none */
	int park_fd; /* open while parked */
	bool parked;
	bool ending; /* POWER_OFF was answered with DONE: PARK would keep init-oci from it */
	struct agent_state at_park; /* the workload's: init-oci may be on a parked CPU */
	struct renewal later; /* what RESTORED asked for and UNPARK does */
	uint32_t served, waiting;
	void (*drop_callers)(int but);
};

void control_start(struct control *control);
uint64_t control_capabilities(const struct control *control);
bool control_answer(struct control *control, int fd, const struct frame *frame); /* false: ERROR */

/* guest.c: what changes the whole guest. The last two: 0, or an errno, and `what` failed */
void power_off(struct control *control);
int renew(struct control *control, const char **what); /* what is in `later` */
int restore(struct control *control, int fd, const struct request *request, uint64_t *uncertainty_ns,
	    const char **what);

/* clock.c: asks the caller for the host's time; 0 or an errno. `offset_ns`: what CLOCK_MONOTONIC lacks */
int ask_clock(int fd, uint64_t *offset_ns, uint64_t *uncertainty_ns);

/* init.c: init-oci, over the socket it started the agent with */
enum { INIT_STATUS = 1, INIT_GO, INIT_SIGNAL, INIT_POWER_OFF };
void init_announce(const char *number);
int init_connect(void);
int init_ask(int fd, uint32_t what, uint32_t number, struct agent_state *state);

/* pid1.c: the agent is the guest's init, which never returns */
int be_pid1(void);
void end_machine(void); /* at once: powers off, or restarts where the kernel cannot */

/* serve.c: never returns but with an exit status; vsock.c; selftest.c */
int serve_listener(int listener, bool (*may_call)(int fd));
int serve(void);
int connect_agent(void); /* over loopback; -1: said why on stderr */
int selftest(char **names);

#endif
