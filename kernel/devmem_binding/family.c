// SPDX-License-Identifier: GPL-2.0
/* The generic netlink family "devmem-binding": what is held, and what becomes of it, told to anybody in the network namespace. */
#include <linux/pid.h>
#include <linux/pid_namespace.h>
#include <net/sock.h>

#include "binding.h"
#include "devmem_binding_nl.h"

/* The creator's number as the reader sees it; 0: dead, or not to be seen. */
static pid_t dmb_creator(const struct dmb_binding *dmb)
{
	pid_t number = 0;

	rcu_read_lock();
	if (pid_task(dmb->creator, PIDTYPE_TGID))
		number = pid_nr_ns(dmb->creator, task_active_pid_ns(current));
	rcu_read_unlock();
	return number;
}

static int dmb_put_common(struct sk_buff *skb, const struct dmb_binding *dmb)
{
	return nla_put_u32(skb, DEVMEM_BINDING_A_ID, dmb->id) ?: nla_put_u32(skb, DEVMEM_BINDING_A_IFINDEX, dmb->ifindex) ?:
	       nla_put_u32(skb, DEVMEM_BINDING_A_DMABUF_ID, dmb->dmabuf_id) ?:
	       nla_put_u32(skb, DEVMEM_BINDING_A_STATE, dmb->gone ? DEVMEM_BINDING_STATE_GONE : DEVMEM_BINDING_STATE_LIVE);
}

/* Under dmb_registry_lock. */
static int dmb_put_binding(struct sk_buff *skb, const struct dmb_binding *dmb, pid_t creator)
{
	int err;
	u32 i;

	err = dmb_put_common(skb, dmb) ?: nla_put_u32(skb, DEVMEM_BINDING_A_RX_PAGE_SIZE, dmb->rx_page_size) ?:
	      nla_put_u32(skb, DEVMEM_BINDING_A_RESET, dmb->reset) ?:
	      nla_put_u32(skb, DEVMEM_BINDING_A_RULES, READ_ONCE(dmb->rule_count));
	if (!err && creator)
		err = nla_put_u32(skb, DEVMEM_BINDING_A_CREATOR_PID, creator);
	for (i = 0; !err && i < dmb->queue_count; i++)
		err = nla_put_u32(skb, DEVMEM_BINDING_A_QUEUE, dmb->queues[i]);
	return err;
}

static size_t dmb_message_size(const struct dmb_binding *dmb)
{
	return (DEVMEM_BINDING_A_MAX + dmb->queue_count) * nla_total_size(sizeof(u32));
}

static bool dmb_visible(const struct dmb_binding *dmb, const struct net *net)
{
	return dmb && dmb->published && net_eq(dmb->net, net);
}

int dmb_get_doit(struct sk_buff *skb, struct genl_info *info)
{
	const struct dmb_binding *dmb;
	struct sk_buff *reply;
	int err = -ENOENT;
	void *head;

	if (GENL_REQ_ATTR_CHECK(info, DEVMEM_BINDING_A_ID))
		return -EINVAL;
	mutex_lock(&dmb_registry_lock);
	dmb = xa_load(&dmb_registry, nla_get_u32(info->attrs[DEVMEM_BINDING_A_ID]));
	if (!dmb_visible(dmb, genl_info_net(info))) {
		NL_SET_ERR_MSG(info->extack, "no binding of this network namespace has this id");
		goto err_unlock;
	}
	err = -ENOMEM;
	reply = genlmsg_new(dmb_message_size(dmb), GFP_KERNEL);
	if (!reply)
		goto err_unlock;
	head = genlmsg_put_reply(reply, info, &devmem_binding_nl_family, 0, DEVMEM_BINDING_CMD_GET);
	err = head ? dmb_put_binding(reply, dmb, dmb_creator(dmb)) : -EMSGSIZE;
	mutex_unlock(&dmb_registry_lock);
	if (err) {
		nlmsg_free(reply);
		return err;
	}
	genlmsg_end(reply, head);
	return genlmsg_reply(reply, info);

err_unlock:
	mutex_unlock(&dmb_registry_lock);
	return err;
}

static int dmb_dump_one(struct sk_buff *skb, struct netlink_callback *cb, const struct dmb_binding *dmb)
{
	void *head = genlmsg_put(skb, NETLINK_CB(cb->skb).portid, cb->nlh->nlmsg_seq, &devmem_binding_nl_family, NLM_F_MULTI,
				 DEVMEM_BINDING_CMD_GET);

	if (!head)
		return -EMSGSIZE;
	if (dmb_put_binding(skb, dmb, dmb_creator(dmb))) {
		genlmsg_cancel(skb, head);
		return -EMSGSIZE;
	}
	genlmsg_end(skb, head);
	return 0;
}

int dmb_get_dumpit(struct sk_buff *skb, struct netlink_callback *cb)
{
	struct nlattr **attributes = genl_info_dump(cb)->attrs;
	u32 ifindex = attributes[DEVMEM_BINDING_A_IFINDEX] ? nla_get_u32(attributes[DEVMEM_BINDING_A_IFINDEX]) : 0;
	const struct dmb_binding *dmb;
	unsigned long id;
	int err = 0;

	mutex_lock(&dmb_registry_lock);
	xa_for_each_start(&dmb_registry, id, dmb, cb->args[0]) {
		if (!dmb_visible(dmb, sock_net(skb->sk)) || (ifindex && dmb->ifindex != ifindex))
			continue;
		err = dmb_dump_one(skb, cb, dmb);
		if (err)
			break;
		cb->args[0] = id + 1;
	}
	mutex_unlock(&dmb_registry_lock);
	return skb->len ?: err;
}

/* --- events: not to be had is not to be helped, whoever must know looks at the handle --- */

static void dmb_event(struct dmb_binding *dmb, u8 command)
{
	struct sk_buff *skb = genlmsg_new(dmb_message_size(dmb), GFP_KERNEL);
	void *head;
	int err;

	if (!skb)
		return;
	head = genlmsg_put(skb, 0, 0, &devmem_binding_nl_family, 0, command);
	if (!head)
		goto free;
	if (command == DEVMEM_BINDING_CMD_RELEASED_NTF) {
		err = dmb_put_common(skb, dmb) ?: nla_put_u32(skb, DEVMEM_BINDING_A_RULES_LEFT, dmb->report.rules_left) ?:
		      nla_put_u32(skb, DEVMEM_BINDING_A_RSS_OUTCOME, dmb->report.rss) ?:
		      nla_put_u32(skb, DEVMEM_BINDING_A_SPLIT_OUTCOME, dmb->report.split);
	} else {
		mutex_lock(&dmb_registry_lock);
		err = dmb_put_binding(skb, dmb, 0);	/* a number would be another one to each reader */
		mutex_unlock(&dmb_registry_lock);
	}
	if (err)
		goto free;
	genlmsg_end(skb, head);
	genlmsg_multicast_netns(&devmem_binding_nl_family, dmb->net, skb, 0, DEVMEM_BINDING_NLGRP_EVENTS, GFP_KERNEL);
	return;
free:
	nlmsg_free(skb);
}

void dmb_event_created(struct dmb_binding *dmb)
{
	dmb_event(dmb, DEVMEM_BINDING_CMD_CREATED_NTF);
}

void dmb_event_gone(struct dmb_binding *dmb)
{
	dmb_event(dmb, DEVMEM_BINDING_CMD_DEVICE_GONE_NTF);
}

void dmb_event_released(struct dmb_binding *dmb)
{
	dmb_event(dmb, DEVMEM_BINDING_CMD_RELEASED_NTF);
}

int dmb_family_init(void)
{
	return genl_register_family(&devmem_binding_nl_family);
}

void dmb_family_exit(void)
{
	genl_unregister_family(&devmem_binding_nl_family);
}
