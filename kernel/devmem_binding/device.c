// SPDX-License-Identifier: GPL-2.0
/*
 * /dev/devmem_binding: makes bindings. Anybody may open it, and get nothing by that: a binding takes CAP_NET_ADMIN over the
 * network namespace, of whoever asks and of whoever opened the device.
 */
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/log2.h>
#include <linux/miscdevice.h>
#include <linux/nsproxy.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/user_namespace.h>
#include <net/net_namespace.h>

#include "binding.h"
#include "compat.h"

#define DMB_RESETS	(DEVMEM_BINDING_RESET_RSS | DEVMEM_BINDING_RESET_SPLIT)

/* Words for the caller, cut to the room there is. */
int dmb_tell(struct dmb_said *said, u64 message, u32 size)
{
	size_t length = strnlen(said->text, sizeof(said->text) - 1) + 1;

	if (!size)
		return 0;
	if (length > size) {
		length = size;
		said->text[size - 1] = 0;
	}
	return copy_to_user(u64_to_user_ptr(message), said->text, length) ? -EFAULT : 0;
}

static int dmb_may_create(struct file *file, struct dmb_said *said)
{
	struct user_namespace *owner = current->nsproxy->net_ns->user_ns;

	if (ns_capable(owner, CAP_NET_ADMIN) && file_ns_capable(file, owner, CAP_NET_ADMIN))
		return 0;
	dmb_say(said, "CAP_NET_ADMIN in this network namespace is needed, here and of whoever opened /dev/devmem_binding");
	return -EPERM;
}

static int dmb_create_check(const struct devmem_binding_create *want, struct dmb_said *said)
{
	if (want->reserved) {
		dmb_say(said, "a reserved field is not 0");
		return -EINVAL;
	}
	if (want->reset & ~DMB_RESETS) {
		dmb_say(said, "reset 0x%x: this module knows only 0x%x", want->reset, DMB_RESETS);
		return -EINVAL;
	}
	if (want->split_before > ETHTOOL_TCP_DATA_SPLIT_ENABLED) {
		dmb_say(said, "split_before %u is no ETHTOOL_TCP_DATA_SPLIT_*", want->split_before);
		return -EINVAL;
	}
	if (want->threshold_before && !DMB_HDS_THRESH) {
		dmb_say(said, "threshold_before %u: this kernel has no hds-thresh", want->threshold_before);
		return -EINVAL;
	}
	if (!want->queue_count || want->queue_count > DEVMEM_BINDING_QUEUES_MAX) {
		dmb_say(said, "%u queues: a binding has 1 to %u", want->queue_count, DEVMEM_BINDING_QUEUES_MAX);
		return -EINVAL;
	}
	if (want->rx_page_size && (!is_power_of_2(want->rx_page_size) || want->rx_page_size < PAGE_SIZE)) {
		dmb_say(said, "rx_page_size %u: it is a power of two, of %lu bytes or more", want->rx_page_size, PAGE_SIZE);
		return -EINVAL;
	}
	return 0;
}

static u32 *dmb_queues_read(const struct devmem_binding_create *want, struct dmb_said *said)
{
	u32 *queues = memdup_array_user(u64_to_user_ptr(want->queues), want->queue_count, sizeof(*queues));
	u32 i, j;

	if (IS_ERR(queues))
		return queues;
	for (i = 0; i < want->queue_count; i++) {
		for (j = 0; j < i; j++) {
			if (queues[i] != queues[j])
				continue;
			dmb_say(said, "queue %u is named twice", queues[i]);
			kfree(queues);
			return ERR_PTR(-EINVAL);
		}
	}
	return queues;
}

/* From a binding to a file descriptor; the binding is taken in any case. */
static int dmb_give(struct dmb_binding *dmb, struct devmem_binding_create *want, struct devmem_binding_create __user *arg,
		    struct dmb_said *said)
{
	struct file *file = dmb_handle_file(dmb);
	int err;

	if (IS_ERR(file)) {
		dmb_release(dmb);
		return PTR_ERR(file);
	}
	want->fd = get_unused_fd_flags(O_CLOEXEC);
	if (want->fd < 0) {
		err = want->fd;
		goto err_file;
	}
	want->id = dmb->id;
	want->dmabuf_id = dmb->dmabuf_id;
	err = copy_to_user(arg, want, sizeof(*want)) ? -EFAULT : dmb_publish(dmb, want, said);
	if (err)
		goto err_fd;
	fd_install(want->fd, file);
	return 0;

err_fd:
	put_unused_fd(want->fd);
err_file:
	fput(file);	/* ends the binding, before the ioctl is back in user space */
	return err;
}

static int dmb_device_create(struct file *file, struct devmem_binding_create *want, struct devmem_binding_create __user *arg,
			     struct dmb_said *said)
{
	struct dmb_binding *dmb;
	u32 *queues;
	int err;

	err = dmb_create_check(want, said) ?: dmb_may_create(file, said);
	if (err)
		return err;
	queues = dmb_queues_read(want, said);
	if (IS_ERR(queues))
		return PTR_ERR(queues);
	dmb = dmb_create(want, queues, said);
	kfree(queues);
	return IS_ERR(dmb) ? PTR_ERR(dmb) : dmb_give(dmb, want, arg, said);
}

static long dmb_device_ioctl(struct file *file, unsigned int command, unsigned long arg)
{
	struct devmem_binding_create want;
	struct dmb_said said = {};
	int err;

	if (command != DEVMEM_BINDING_IOC_CREATE)
		return -ENOTTY;
	if (copy_from_user(&want, (void __user *)arg, sizeof(want)))
		return -EFAULT;
	/* Before there is anything that would have to be undone if the words had no place to go. */
	err = dmb_tell(&said, want.message, want.message_size);
	if (err)
		return err;
	err = dmb_device_create(file, &want, (void __user *)arg, &said);
	if (err)
		dmb_tell(&said, want.message, want.message_size);
	return err;
}

static const struct file_operations dmb_device_fops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = dmb_device_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

static struct miscdevice dmb_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "devmem_binding",
	.fops = &dmb_device_fops,
	.mode = 0666,
};

int dmb_device_init(void)
{
	return misc_register(&dmb_device);
}

void dmb_device_exit(void)
{
	misc_deregister(&dmb_device);
}
