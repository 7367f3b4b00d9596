// SPDX-License-Identifier: GPL-2.0
/*
 * Pairs of ports: made at load time (pairs=, queues=, personality=) and, at run time, by writing "QUEUES [PERSONALITY]"
 * to debugfs devmemsim/new_pair and a pair's number to devmemsim/remove_pair.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/debugfs.h>
#include <linux/dma-mapping.h>
#include <linux/module.h>
#include <linux/platform_device.h>
#include <linux/uaccess.h>

#include "devmemsim.h"

static unsigned int pairs = 1;
module_param(pairs, uint, 0444);
MODULE_PARM_DESC(pairs, "pairs of NICs to make at load time (0 to 16; default 1)");
static unsigned int queues = 8;
module_param(queues, uint, 0444);
MODULE_PARM_DESC(queues, "queues of each NIC (1 to 128; default 8)");
static char *personality = "none";
module_param(personality, charp, 0444);
MODULE_PARM_DESC(personality, "whose quirks the NICs show: none, mlx5, bnxt, gve or fbnic");

static LIST_HEAD(dms_pairs);
static DEFINE_MUTEX(dms_pairs_lock);

/*
 * The device that memory is mapped for: it needs a DMA mask, which a faux device has not. Without an IOMMU behind it,
 * a DMA address is a physical address, so that dma.c can follow it.
 *
 * It is made once and stays, also beyond this module: as long as somebody holds received bytes, the core holds the
 * binding, and unmaps the dma-buf from this device when they are given back, without a reference to it.
 */
static struct platform_device *dms_parent(unsigned int id)
{
	struct platform_device *parent;
	struct device *found;
	char name[24];
	int err;

	snprintf(name, sizeof(name), DMS_NAME ".%u", id);
	found = bus_find_device_by_name(&platform_bus_type, NULL, name);
	if (found) {
		put_device(found);	/* its registration holds it */
		return to_platform_device(found);
	}
	parent = platform_device_register_simple(DMS_NAME, id, NULL, 0);
	if (IS_ERR(parent))
		return parent;
	err = dma_coerce_mask_and_coherent(&parent->dev, DMA_BIT_MASK(64));
	if (err) {
		platform_device_unregister(parent);
		return ERR_PTR(err);
	}
	dma_set_max_seg_size(&parent->dev, UINT_MAX);
	return parent;
}

static void dms_pair_free(struct dms_pair *pair)
{
	int i;

	for (i = 0; i < 2; i++)
		if (pair->port[i])
			dms_port_free(pair->port[i]);
	kfree(pair);
}

/* Both at once: neither may be gone while the other still sends to it. */
static void dms_pair_unregister(struct dms_pair *pair, int ports)
{
	LIST_HEAD(gone);
	int i;

	for (i = 0; i < ports; i++)
		dms_faults_remove_port(pair->port[i]);
	rtnl_lock();
	for (i = 0; i < ports; i++)
		unregister_netdevice_queue(pair->port[i]->dev, &gone);
	unregister_netdevice_many(&gone);
	rtnl_unlock();
}

static int dms_pair_fill(struct dms_pair *pair, unsigned int n, const struct dms_personality *who)
{
	int i, err;

	for (i = 0; i < 2; i++) {
		struct dms_port *port = dms_port_create(pair, i, n, who);

		if (IS_ERR(port))
			return PTR_ERR(port);
		pair->port[i] = port;
	}
	pair->port[0]->peer = pair->port[1];
	pair->port[1]->peer = pair->port[0];
	for (i = 0; i < 2; i++) {
		err = register_netdev(pair->port[i]->dev);
		if (err) {
			dms_pair_unregister(pair, i);
			return err;
		}
		dms_faults_add_port(pair->port[i]);
	}
	return 0;
}

/* Under dms_pairs_lock. */
static int dms_pair_create(unsigned int n, const char *who)
{
	const struct dms_personality *as = dms_personality_find(who);
	struct dms_pair *pair, *other;
	unsigned int id = 0;
	int err;

	if (!as) {
		pr_err("no personality '%s': %s\n", who, dms_personality_names);
		return -EINVAL;
	}
	if (n < 1 || n > DMS_MAX_QUEUES) {
		pr_err("%u queues: a NIC has 1 to %u\n", n, DMS_MAX_QUEUES);
		return -EINVAL;
	}
	list_for_each_entry(other, &dms_pairs, list)	/* in the order of their numbers: the first gap */
		if (other->id == id)
			id++;
		else
			break;
	if (id >= DMS_MAX_PAIRS)
		return -ENOSPC;
	pair = kzalloc(sizeof(*pair), GFP_KERNEL);
	if (!pair)
		return -ENOMEM;
	pair->id = id;
	spin_lock_init(&pair->lock);
	pair->parent = dms_parent(id);
	if (IS_ERR(pair->parent)) {
		err = PTR_ERR(pair->parent);
		kfree(pair);
		return err;
	}
	err = dms_pair_fill(pair, n, as);
	if (err) {
		dms_pair_free(pair);
		return err;
	}
	list_add_tail(&pair->list, &other->list);
	return 0;
}

static void dms_pair_remove(struct dms_pair *pair)
{
	list_del(&pair->list);
	dms_pair_unregister(pair, 2);
	dms_pair_free(pair);
}

static void dms_pairs_remove(void)
{
	struct dms_pair *pair, *next;

	mutex_lock(&dms_pairs_lock);
	list_for_each_entry_safe(pair, next, &dms_pairs, list)
		dms_pair_remove(pair);
	mutex_unlock(&dms_pairs_lock);
}

/* --- at run time ------------------------------------------------------------------------------------------------------- */

static int dms_read_command(const char __user *from, size_t size, char *text, size_t room)
{
	if (size >= room || copy_from_user(text, from, size))
		return -EINVAL;
	text[size] = 0;
	return 0;
}

static ssize_t dms_new_pair(struct file *file, const char __user *from, size_t size, loff_t *position)
{
	char text[32], who[16] = "none";
	unsigned int n;
	int err = dms_read_command(from, size, text, sizeof(text));

	if (err)
		return err;
	if (sscanf(text, "%u %15s", &n, who) < 1)
		return -EINVAL;
	mutex_lock(&dms_pairs_lock);
	err = dms_pair_create(n, who);
	mutex_unlock(&dms_pairs_lock);
	return err ?: size;
}

static ssize_t dms_remove_pair(struct file *file, const char __user *from, size_t size, loff_t *position)
{
	struct dms_pair *pair;
	unsigned int id;
	char text[16];
	int err = dms_read_command(from, size, text, sizeof(text));

	if (err)
		return err;
	if (sscanf(text, "%u", &id) != 1)
		return -EINVAL;
	err = -ENODEV;
	mutex_lock(&dms_pairs_lock);
	list_for_each_entry(pair, &dms_pairs, list) {
		if (pair->id == id) {
			dms_pair_remove(pair);
			err = 0;
			break;
		}
	}
	mutex_unlock(&dms_pairs_lock);
	return err ?: size;
}

static const struct file_operations dms_new_pair_fops = { .owner = THIS_MODULE, .open = simple_open, .write = dms_new_pair };
static const struct file_operations dms_remove_pair_fops = { .owner = THIS_MODULE, .open = simple_open,
							      .write = dms_remove_pair };

static struct dentry *dms_control[2];

static int __init dms_init(void)
{
	unsigned int i;
	int err;

	dms_faults_init();
	for (i = 0; i < pairs; i++) {
		mutex_lock(&dms_pairs_lock);
		err = dms_pair_create(queues, personality);
		mutex_unlock(&dms_pairs_lock);
		if (err) {
			dms_pairs_remove();
			dms_faults_exit();
			return err;
		}
	}
	dms_control[0] = debugfs_create_file("new_pair", 0200, dms_faults_root(), NULL, &dms_new_pair_fops);
	dms_control[1] = debugfs_create_file("remove_pair", 0200, dms_faults_root(), NULL, &dms_remove_pair_fops);
	return 0;
}

static void __exit dms_exit(void)
{
	debugfs_remove(dms_control[0]);	/* no new pairs from here */
	debugfs_remove(dms_control[1]);
	dms_pairs_remove();
	dms_faults_exit();
}

module_init(dms_init);
module_exit(dms_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Back-to-back software NICs with device-memory receive");
