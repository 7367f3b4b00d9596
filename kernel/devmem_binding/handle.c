// SPDX-License-Identifier: GPL-2.0
/*
 * A binding's handle: an anonymous file, passed on as any file is. Holding it keeps the binding; using it to change rules takes
 * CAP_NET_ADMIN as well, so that it can be lent to a process without rights.
 */
#include <linux/anon_inodes.h>
#include <linux/fs.h>
#include <linux/poll.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/user_namespace.h>
#include <net/net_namespace.h>

#include "binding.h"

static int dmb_may_change(const struct dmb_binding *dmb, struct dmb_said *said)
{
	if (ns_capable(dmb->net->user_ns, CAP_NET_ADMIN))
		return 0;
	dmb_say(said, "CAP_NET_ADMIN in the network namespace of the binding is needed to change its rules");
	return -EPERM;
}

static int dmb_rule_check(const struct devmem_binding_rule_change *change, bool add, struct dmb_said *said)
{
	if (!change->reserved && (!add || !change->rule.flow.reserved))
		return 0;
	dmb_say(said, "a reserved field is not 0");
	return -EINVAL;
}

static long dmb_handle_rule(struct dmb_binding *dmb, struct devmem_binding_rule_change __user *arg, bool add)
{
	struct devmem_binding_rule_change change;
	struct dmb_said said = {};
	int err, told;

	if (copy_from_user(&change, arg, sizeof(change)))
		return -EFAULT;
	err = dmb_rule_check(&change, add, &said) ?: dmb_may_change(dmb, &said) ?: mutex_lock_interruptible(&dmb->lock);
	if (err)
		goto tell;
	err = add ? dmb_rule_add(dmb, &change.rule, &said) : dmb_rule_delete(dmb, change.rule.location, &said);
	if (!err && add && put_user(change.rule.location, &arg->rule.location)) {
		dmb_rule_delete(dmb, change.rule.location, &said);
		err = -EFAULT;
	}
	mutex_unlock(&dmb->lock);
tell:
	told = dmb_tell(&said, change.message, change.message_size);
	return err ?: told;
}

/* A copy of up to *@count rules, made under the lock so that nobody's page fault holds it up; *@count becomes how many there are. */
static struct devmem_binding_rule *dmb_info_rules(struct dmb_binding *dmb, u32 *count, u32 *copied)
{
	struct devmem_binding_rule *rules = NULL;
	const struct dmb_rule *rule;
	u32 i = 0;

	if (mutex_lock_interruptible(&dmb->lock))
		return ERR_PTR(-EINTR);
	*copied = min(*count, dmb->rule_count);
	*count = dmb->rule_count;
	if (*copied)
		rules = kvcalloc(*copied, sizeof(*rules), GFP_KERNEL_ACCOUNT);
	if (*copied && !rules) {
		mutex_unlock(&dmb->lock);
		return ERR_PTR(-ENOMEM);
	}
	list_for_each_entry(rule, &dmb->rules, list) {
		if (i == *copied)
			break;
		rules[i].location = rule->location;
		rules[i].queue = rule->queue;
		rules[i++].flow = rule->flow;
	}
	mutex_unlock(&dmb->lock);
	return rules;
}

/* What any holder may know: it says nothing that a NIC does not tell everybody. */
static long dmb_handle_info(struct dmb_binding *dmb, struct devmem_binding_info __user *arg)
{
	struct devmem_binding_rule *rules;
	struct devmem_binding_info info;
	u32 queues, copied;
	int err = 0;

	if (copy_from_user(&info, arg, sizeof(info)))
		return -EFAULT;
	queues = min(info.queue_count, dmb->queue_count);
	if (copy_to_user(u64_to_user_ptr(info.queues), dmb->queues, queues * sizeof(u32)))
		return -EFAULT;
	rules = dmb_info_rules(dmb, &info.rule_count, &copied);
	if (IS_ERR(rules))
		return PTR_ERR(rules);
	if (copied && copy_to_user(u64_to_user_ptr(info.rules), rules, copied * sizeof(*rules)))
		err = -EFAULT;
	kvfree(rules);
	if (err)
		return err;
	info.id = dmb->id;
	info.ifindex = dmb->ifindex;
	info.dmabuf_id = dmb->dmabuf_id;
	info.rx_page_size = dmb->rx_page_size;
	info.queue_count = dmb->queue_count;
	info.netns_cookie = dmb->net->net_cookie;
	mutex_lock(&dmb_registry_lock);
	info.state = dmb->gone ? DEVMEM_BINDING_STATE_GONE : DEVMEM_BINDING_STATE_LIVE;
	info.reset = dmb->reset;
	info.split_before = dmb->split_before;
	info.threshold_before = dmb->threshold_before;
	mutex_unlock(&dmb_registry_lock);
	return copy_to_user(arg, &info, sizeof(info)) ? -EFAULT : 0;
}

static long dmb_handle_ioctl(struct file *file, unsigned int command, unsigned long arg)
{
	struct dmb_binding *dmb = file->private_data;
	void __user *to = (void __user *)arg;

	switch (command) {
	case DEVMEM_BINDING_IOC_RULE_ADD:
	case DEVMEM_BINDING_IOC_RULE_DEL:
		return dmb_handle_rule(dmb, to, command == DEVMEM_BINDING_IOC_RULE_ADD);
	case DEVMEM_BINDING_IOC_INFO:
		return dmb_handle_info(dmb, to);
	}
	return -ENOTTY;
}

static __poll_t dmb_handle_poll(struct file *file, poll_table *wait)
{
	struct dmb_binding *dmb = file->private_data;

	poll_wait(file, &dmb->wait, wait);
	return READ_ONCE(dmb->gone) ? EPOLLIN | EPOLLRDNORM | EPOLLHUP : 0;
}

static void dmb_handle_fdinfo(struct seq_file *seq, struct file *file)
{
	const struct dmb_binding *dmb = file->private_data;
	u32 i;

	seq_printf(seq, "devmem-binding-id:\t%u\nifindex:\t%u\ndmabuf-id:\t%u\nqueues:", dmb->id, dmb->ifindex, dmb->dmabuf_id);
	for (i = 0; i < dmb->queue_count; i++)
		seq_printf(seq, "%c%u", i ? ' ' : '\t', dmb->queues[i]);
	seq_printf(seq, "\nrules:\t%u\nstate:\t%s\n", READ_ONCE(dmb->rule_count), READ_ONCE(dmb->gone) ? "gone" : "live");
}

static int dmb_handle_release(struct inode *inode, struct file *file)
{
	dmb_release(file->private_data);
	return 0;
}

static const struct file_operations dmb_handle_fops = {
	.owner = THIS_MODULE,	/* the module stays while a handle is held */
	.unlocked_ioctl = dmb_handle_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.poll = dmb_handle_poll,
	.show_fdinfo = dmb_handle_fdinfo,
	.release = dmb_handle_release,
};

/* Owns @dmb from then on, if there is no error. */
struct file *dmb_handle_file(struct dmb_binding *dmb)
{
	return anon_inode_getfile("[devmem_binding]", &dmb_handle_fops, dmb, O_RDWR | O_CLOEXEC);
}
