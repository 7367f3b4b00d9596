// SPDX-License-Identifier: GPL-2.0
/* The binding itself, as netdev-genl makes it. It ends when its socket is closed. */
#include "binding.h"
#include "compat.h"

static int dmb_bound(struct nlattr **attributes, void *context)
{
	struct dmb_binding *dmb = context;

	if (!attributes[NETDEV_A_DMABUF_ID])
		return -EPROTO;
	dmb->dmabuf_id = nla_get_u32(attributes[NETDEV_A_DMABUF_ID]);
	return 0;
}

static int dmb_put_queue(struct sk_buff *request, u32 queue)
{
	struct nlattr *nest = nla_nest_start(request, NETDEV_A_DMABUF_QUEUES);

	if (!nest || nla_put_u32(request, NETDEV_A_QUEUE_ID, queue) ||
	    nla_put_u32(request, NETDEV_A_QUEUE_TYPE, NETDEV_QUEUE_TYPE_RX))
		return -EMSGSIZE;
	nla_nest_end(request, nest);
	return 0;
}

/* @dmabuf_fd is looked up by the kernel's own bind-rx, in the calling process: nothing is done here on behalf of another. */
int dmb_bind(struct dmb_binding *dmb, int dmabuf_fd, struct dmb_said *said)
{
	struct nlattr *attributes[NETDEV_A_DMABUF_ID + 1];
	struct sk_buff *request;
	int err;
	u32 i;

	if (dmb->rx_page_size != PAGE_SIZE && !DMB_RX_PAGE_SIZE) {
		dmb_say(said, "this kernel has receive buffers of a page (%lu) only", PAGE_SIZE);
		return -EOPNOTSUPP;
	}
	request = dmb_request(&dmb->bind, NETDEV_CMD_BIND_RX, NLM_F_ACK,
			      3 * nla_total_size(sizeof(u32)) + dmb->queue_count * nla_total_size(2 * nla_total_size(sizeof(u32))));
	if (!request)
		return -ENOMEM;
	err = nla_put_u32(request, NETDEV_A_DMABUF_IFINDEX, dmb->ifindex) ?: nla_put_u32(request, NETDEV_A_DMABUF_FD, dmabuf_fd);
	if (!err && dmb->rx_page_size != PAGE_SIZE)
		err = nla_put_u32(request, DMB_RX_PAGE_SIZE, dmb->rx_page_size);
	for (i = 0; !err && i < dmb->queue_count; i++)
		err = dmb_put_queue(request, dmb->queues[i]);
	if (err) {
		nlmsg_free(request);
		return err;
	}
	err = dmb_ask(&dmb->bind, request, dmb_bound, attributes, NETDEV_A_DMABUF_ID, dmb, said);
	if (err && !said->text[0])
		dmb_say(said, "the kernel refused to bind (bind-rx), and did not say why: is %d a dma-buf, and header split on?",
			dmabuf_fd);
	return err;
}
