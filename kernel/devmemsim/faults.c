// SPDX-License-Identifier: GPL-2.0
/*
 * The knobs, in debugfs: devmemsim/pairN-{a,b}/queueM/<fault> takes "COUNT" or "COUNT SKIP" and reads back what is left;
 * writing 1 to reset restarts the queue. refuse_rules is the port's.
 */
#include <linux/debugfs.h>
#include <linux/uaccess.h>

#include "devmemsim.h"

static struct dentry *dms_root;

static const char * const dms_fault_names[DMS_FAULT_COUNT] = {
	[DMS_FAULT_DROP] = "drop",
	[DMS_FAULT_REORDER] = "reorder",
	[DMS_FAULT_DUPLICATE] = "duplicate",
	[DMS_FAULT_CORRUPT] = "corrupt",
	[DMS_FAULT_DELAY] = "delay",
	[DMS_FAULT_ALLOC] = "fail_alloc",
	[DMS_FAULT_LINEAR] = "linear",
	[DMS_FAULT_SPLIT_LATE] = "split_late",
	[DMS_FAULT_MISROUTE] = "misroute",
	[DMS_FAULT_DMA_LOSE] = "dma_lose",
	[DMS_FAULT_DMA_MISPLACE] = "dma_misplace",
};

bool __dms_fault(struct dms_faults *faults, enum dms_fault which)
{
	if (atomic_dec_if_positive(&faults->skip[which]) >= 0)
		return false;
	return atomic_dec_if_positive(&faults->left[which]) >= 0;
}


/* A knob's file carries the address of its `left`; its `skip` lies DMS_FAULT_COUNT counters further. */
static atomic_t *dms_skip_of(atomic_t *left)
{
	BUILD_BUG_ON(offsetof(struct dms_faults, skip) != sizeof(atomic_t) * DMS_FAULT_COUNT);
	return left + DMS_FAULT_COUNT;
}

static ssize_t dms_knob_read(struct file *file, char __user *to, size_t size, loff_t *position)
{
	atomic_t *left = file->private_data;
	char text[32];
	int n = scnprintf(text, sizeof(text), "%d %d\n", atomic_read(left), atomic_read(dms_skip_of(left)));

	return simple_read_from_buffer(to, size, position, text, n);
}

static ssize_t dms_knob_write(struct file *file, const char __user *from, size_t size, loff_t *position)
{
	atomic_t *left = file->private_data;
	char text[32], *rest = text, *word;
	unsigned int value[2] = {};
	int n = 0, err;

	if (size >= sizeof(text))
		return -EINVAL;
	if (copy_from_user(text, from, size))
		return -EFAULT;
	text[size] = 0;
	while ((word = strsep(&rest, " \n"))) {
		if (!*word)
			continue;
		err = n < 2 ? kstrtouint(word, 0, &value[n++]) : -EINVAL;
		if (err || value[n - 1] > INT_MAX)
			return err ?: -ERANGE;
	}
	if (!n)
		return -EINVAL;
	atomic_set(left, 0);
	atomic_set(dms_skip_of(left), value[1]);
	atomic_set(left, value[0]);
	return size;
}

static const struct file_operations dms_knob_fops = {
	.owner = THIS_MODULE,
	.open = simple_open,
	.read = dms_knob_read,
	.write = dms_knob_write,
};

static int dms_reset_set(void *data, u64 value)
{
	struct dms_rxq *rxq = data;
	struct net_device *dev = rxq->port->dev;
	int err;

	if (value != 1)
		return -EINVAL;
	rtnl_lock();
	netdev_lock_ops(dev);
	err = dms_queue_reset(rxq->port, rxq->index);
	netdev_unlock_ops(dev);
	rtnl_unlock();
	return err;
}
DEFINE_DEBUGFS_ATTRIBUTE(dms_reset_fops, NULL, dms_reset_set, "%llu\n");

static void dms_add_queue(struct dms_rxq *rxq)
{
	struct dms_faults *faults = &rxq->faults;
	struct dentry *folder;
	char name[16];
	int i;

	snprintf(name, sizeof(name), "queue%u", rxq->index);
	folder = debugfs_create_dir(name, rxq->port->debugfs);
	for (i = 0; i < DMS_FAULT_COUNT; i++)
		debugfs_create_file(dms_fault_names[i], 0600, folder, &faults->left[i], &dms_knob_fops);
	debugfs_create_u32("delay_us", 0600, folder, &faults->delay_us);
	debugfs_create_u32("misroute_to", 0600, folder, &faults->misroute_to);
	debugfs_create_file_unsafe("reset", 0200, folder, rxq, &dms_reset_fops);
}

void dms_faults_add_port(struct dms_port *port)
{
	unsigned int i;

	port->debugfs = debugfs_create_dir(port->id, dms_root);
	debugfs_create_atomic_t("refuse_rules", 0600, port->debugfs, &port->refuse_rules);
	for (i = 0; i < port->max_queues; i++)
		dms_add_queue(&port->rxq[i]);
}

/* Waits for readers and writers. Without rtnl: a reset may want it. */
void dms_faults_remove_port(struct dms_port *port)
{
	debugfs_remove(port->debugfs);
}

struct dentry *dms_faults_root(void)
{
	return dms_root;
}

void dms_faults_init(void)
{
	dms_root = debugfs_create_dir(DMS_NAME, NULL);
}

void dms_faults_exit(void)
{
	debugfs_remove(dms_root);
}
