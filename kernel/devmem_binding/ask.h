/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Requests of this module to generic netlink families, over sockets of its own that behave as the caller's would: his
 * credentials, his namespace, the kernel's own checks and its words in refusing.
 */
#ifndef DMB_ASK_H
#define DMB_ASK_H

#include <linux/skbuff.h>
#include <net/genetlink.h>

struct file;
struct socket;
struct dmb_said;

struct dmb_socket {
	struct file *file;	/* owns the socket; NULL: closed */
	struct socket *socket;
	u16 family;		/* the family asked */
	u8 version;
	u32 seq;
};

/* Called for each message of an answer, with its attributes. An error ends the asking and is returned. */
typedef int (*dmb_answer)(struct nlattr **attributes, void *context);

/**
 * dmb_socket_open - opens a socket to a family, in the caller's network namespace and with its credentials
 * @sock: what is opened
 * @family: the family's name
 * @said: takes the kernel's words in refusing
 */
int dmb_socket_open(struct dmb_socket *sock, const char *family, struct dmb_said *said);

/* Whatever hung on the socket is undone when this returns. */
void dmb_socket_close(struct dmb_socket *sock);

/* A request with @room bytes for attributes, to be filled and given to dmb_ask(). */
struct sk_buff *dmb_request(struct dmb_socket *sock, u8 command, u16 flags, size_t room);

/**
 * dmb_ask - sends a request and reads what comes back
 * @sock: the socket it was made for
 * @request: taken, whatever happens
 * @answer: called for each message of the answer; may be NULL
 * @attributes: for @answer: room for @max + 1
 * @max: the highest attribute looked for
 * @context: for @answer
 * @said: takes the kernel's words in refusing
 *
 * The request is served before this returns, in the caller's context and under the caller's credentials.
 */
int dmb_ask(struct dmb_socket *sock, struct sk_buff *request, dmb_answer answer, struct nlattr **attributes, int max, void *context,
	    struct dmb_said *said);

#endif
