// SPDX-License-Identifier: GPL-2.0
/* Requests to generic netlink families (ask.h). */
#include <linux/file.h>
#include <linux/net.h>
#include <linux/slab.h>
#include <net/sock.h>

#include "binding.h"

/* netlink makes no message of an answer larger than this (af_netlink.c). */
#define DMB_ANSWER_MAX	32768

static int dmb_socket_option(struct socket *socket, int option)
{
	int on = 1;

	return READ_ONCE(socket->ops)->setsockopt(socket, SOL_NETLINK, option, KERNEL_SOCKPTR(&on), sizeof(on));
}

static int dmb_family_found(struct nlattr **attributes, void *context)
{
	struct dmb_socket *sock = context;

	if (!attributes[CTRL_ATTR_FAMILY_ID] || !attributes[CTRL_ATTR_VERSION])
		return -EPROTO;
	sock->family = nla_get_u16(attributes[CTRL_ATTR_FAMILY_ID]);
	sock->version = nla_get_u32(attributes[CTRL_ATTR_VERSION]);
	return 0;
}

/*
 * Asked anew for each socket: the first answer that is read also tells the kernel how large an answer may be, which it needs to
 * know before it begins a dump.
 */
static int dmb_socket_resolve(struct dmb_socket *sock, const char *family, struct dmb_said *said)
{
	struct nlattr *attributes[CTRL_ATTR_VERSION + 1];
	struct sk_buff *request;

	sock->family = GENL_ID_CTRL;
	sock->version = 2;
	request = dmb_request(sock, CTRL_CMD_GETFAMILY, NLM_F_ACK, GENLMSG_DEFAULT_SIZE);
	if (!request)
		return -ENOMEM;
	if (nla_put_string(request, CTRL_ATTR_FAMILY_NAME, family)) {
		nlmsg_free(request);
		return -EMSGSIZE;
	}
	return dmb_ask(sock, request, dmb_family_found, attributes, CTRL_ATTR_VERSION, sock, said);
}

int dmb_socket_open(struct dmb_socket *sock, const char *family, struct dmb_said *said)
{
	struct file *file;
	int err;

	err = sock_create(PF_NETLINK, SOCK_RAW, NETLINK_GENERIC, &sock->socket);
	if (err) {
		dmb_say(said, "no netlink socket could be made");
		return err;
	}
	/* The file is what the kernel looks at for the credentials the socket was opened with. It takes the socket, also in failing. */
	file = sock_alloc_file(sock->socket, O_CLOEXEC, NULL);
	if (IS_ERR(file))
		return PTR_ERR(file);
	sock->file = file;
	err = dmb_socket_option(sock->socket, NETLINK_EXT_ACK) ?: dmb_socket_option(sock->socket, NETLINK_CAP_ACK) ?:
	      dmb_socket_resolve(sock, family, said);
	if (err) {
		if (!said->text[0])
			dmb_say(said, "the kernel's generic netlink family '%s' did not answer", family);
		dmb_socket_close(sock);
	}
	return err;
}

void dmb_socket_close(struct dmb_socket *sock)
{
	if (!sock->file)
		return;
	/* fput() would do it later, and on a workqueue's thread much later. Nobody else ever had this file. */
	__fput_sync(sock->file);
	sock->file = NULL;
	sock->socket = NULL;
}

struct sk_buff *dmb_request(struct dmb_socket *sock, u8 command, u16 flags, size_t room)
{
	struct genl_family family = { .id = sock->family, .version = sock->version };
	struct sk_buff *request = genlmsg_new(room, GFP_KERNEL);

	if (request && !genlmsg_put(request, 0, ++sock->seq, &family, NLM_F_REQUEST | flags, command)) {
		nlmsg_free(request);
		request = NULL;
	}
	return request;
}

/* What an NLMSG_ERROR or NLMSG_DONE says besides its number: attributes behind the fixed part. */
static void dmb_read_words(const struct nlmsghdr *message, size_t fixed, struct dmb_said *said)
{
	const struct nlattr *attribute;
	int left = nlmsg_len(message) - NLMSG_ALIGN(fixed);

	if (!(message->nlmsg_flags & NLM_F_ACK_TLVS) || left <= 0)
		return;
	nla_for_each_attr(attribute, nlmsg_data(message) + NLMSG_ALIGN(fixed), left, left)
		if (nla_type(attribute) == NLMSGERR_ATTR_MSG)
			nla_strscpy(said->text, attribute, sizeof(said->text));
}

/* One message: 1 at the answer's end, 0 within, else an error. */
static int dmb_read_message(const struct nlmsghdr *message, dmb_answer answer, struct nlattr **attributes, int max, void *context,
			    struct dmb_said *said)
{
	const struct nlmsgerr *error = nlmsg_data(message);
	int err;

	switch (message->nlmsg_type) {
	case NLMSG_ERROR:
		if (nlmsg_len(message) < sizeof(*error))
			return -EPROTO;
		dmb_read_words(message, sizeof(*error), said);
		return error->error ?: 1;
	case NLMSG_DONE:
		if (nlmsg_len(message) < sizeof(int))
			return -EPROTO;
		dmb_read_words(message, sizeof(int), said);
		return *(int *)nlmsg_data(message) ?: 1;
	}
	if (!answer)
		return 0;
	err = nlmsg_parse_deprecated(message, GENL_HDRLEN, attributes, max, NULL, NULL);
	return err ?: answer(attributes, context);
}

static int dmb_read_answer(struct dmb_socket *sock, void *room, dmb_answer answer, struct nlattr **attributes, int max, void *context,
			   struct dmb_said *said)
{
	int err = 0;

	while (!err) {
		struct kvec vec = { .iov_base = room, .iov_len = DMB_ANSWER_MAX };
		const struct nlmsghdr *message = room;
		struct msghdr header = {};
		int left;

		/* All of it was queued while the request was sent, a dump's next part when the one before was read. */
		left = kernel_recvmsg(sock->socket, &header, &vec, 1, DMB_ANSWER_MAX, MSG_DONTWAIT);
		if (left < 0)
			return left == -EAGAIN ? -EPROTO : left;
		if (header.msg_flags & MSG_TRUNC)
			return -EMSGSIZE;
		for (; !err && nlmsg_ok(message, left); message = nlmsg_next(message, &left))
			if (message->nlmsg_seq == sock->seq)
				err = dmb_read_message(message, answer, attributes, max, context, said);
	}
	return err < 0 ? err : 0;
}

int dmb_ask(struct dmb_socket *sock, struct sk_buff *request, dmb_answer answer, struct nlattr **attributes, int max, void *context,
	    struct dmb_said *said)
{
	struct nlmsghdr *head = nlmsg_hdr(request);
	struct msghdr header = {};
	struct kvec vec;
	void *room;
	int err;

	nlmsg_end(request, head);
	vec = (struct kvec){ .iov_base = head, .iov_len = head->nlmsg_len };
	/* Before the request: once it is served, its answer must be read. */
	room = kvmalloc(DMB_ANSWER_MAX, GFP_KERNEL);
	if (!room) {
		nlmsg_free(request);
		return -ENOMEM;
	}
	err = kernel_sendmsg(sock->socket, &header, &vec, 1, vec.iov_len);
	nlmsg_free(request);
	if (err >= 0)
		err = dmb_read_answer(sock, room, answer, attributes, max, context, said);
	kvfree(room);
	return err;
}
