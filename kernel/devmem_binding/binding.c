// SPDX-License-Identifier: GPL-2.0
/*
 * A binding's life.
 *
 *   1. Created (dmb_create()): it finds its device, takes a reference, and is in the registry from then on, so that it learns
 *      of the device's end. What may speak against it is looked for; netdev-genl binds. All in the caller's context, under the caller's
 *      credentials.
 *   2. Published (dmb_publish()): its handle is about to be the caller's. Until then nobody knows of it.
 *   3. Held: rules come and go (rules.c). It may change hands; nothing here asks whose it is.
 *   4. Its device is unregistered, or leaves the network namespace: the reference goes within the notification, poll() tells the
 *      holders, rules are taken out (of a device that lives on), the dma-buf is unbound, so that its memory is not held for nothing.
 *   5. Its last holder is gone (dmb_release()): rules out, unbound, RSS and header split reset, told to all. The closing of the last
 *      file descriptor returns when that is done. It is done by a worker: who closes last may be dying, throttled, without
 *      rights, or the garbage collector of unix sockets.
 *
 * A creation that fails after 1 ends as in 5.
 */
#include <linux/nsproxy.h>
#include <linux/pid.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <net/net_namespace.h>
#include <net/sock.h>

#include "binding.h"
#include "compat.h"

DEFINE_XARRAY_ALLOC1(dmb_registry);
DEFINE_MUTEX(dmb_registry_lock);

/* Not system_wq: an end may take the time of a queue's restart. Not for reclaim: drivers wait for works of theirs meanwhile. */
static struct workqueue_struct *dmb_workers;

bool dmb_has_queue(const struct dmb_binding *dmb, u32 queue)
{
	u32 i;

	for (i = 0; i < dmb->queue_count; i++)
		if (dmb->queues[i] == queue)
			return true;
	return false;
}

/* --- the device --- */

static int dmb_device_find(struct dmb_binding *dmb, struct dmb_said *said)
{
	struct net_device *dev;
	static u32 next;
	int err = -ENODEV;

	rtnl_lock();
	dev = __dev_get_by_index(dmb->net, dmb->ifindex);
	if (!dev) {
		dmb_say(said, "no network device has the number %u in your network namespace", dmb->ifindex);
		goto unlock;
	}
	/* 6.12 finds that out only after it tried to map the dma-buf for a device that is none, with a warning. */
	err = -EOPNOTSUPP;
	if (!dev->queue_mgmt_ops || !dev->ethtool_ops) {
		dmb_say(said, "%s: its driver cannot restart single queues, and so cannot bind memory to one", dev->name);
		goto unlock;
	}
	mutex_lock(&dmb_registry_lock);
	err = xa_alloc_cyclic(&dmb_registry, &dmb->id, dmb, xa_limit_31b, &next, GFP_KERNEL_ACCOUNT);
	if (err >= 0)
		dmb->dev = dev;
	mutex_unlock(&dmb_registry_lock);
	if (err >= 0)
		netdev_hold(dev, &dmb->tracker, GFP_KERNEL);
unlock:
	rtnl_unlock();
	return min(err, 0);	/* 1: the numbers wrapped */
}

/* Under rtnl. */
static void dmb_device_forget(struct dmb_binding *dmb)
{
	ASSERT_RTNL();
	if (!dmb->dev)
		return;
	netdev_put(dmb->dev, &dmb->tracker);
	mutex_lock(&dmb_registry_lock);
	dmb->dev = NULL;
	mutex_unlock(&dmb_registry_lock);
}

static void dmb_gone(struct work_struct *work)
{
	struct dmb_binding *dmb = container_of(work, struct dmb_binding, gone_work);
	bool published;

	mutex_lock(&dmb->lock);
	dmb_rules_remove(dmb);
	dmb_socket_close(&dmb->bind);
	rtnl_lock();
	dmb_device_forget(dmb);
	published = dmb->published;
	rtnl_unlock();
	mutex_unlock(&dmb->lock);
	if (published)
		dmb_event_gone(dmb);
}

/*
 * Also sent, in the old namespace, for a device that leaves it. It then keeps its rules, and is kept until they are out: nobody
 * waits for references to it.
 */
static void dmb_device_unregistered(struct net_device *dev)
{
	struct dmb_binding *dmb;
	unsigned long id;

	mutex_lock(&dmb_registry_lock);
	xa_for_each(&dmb_registry, id, dmb) {
		if (dmb->dev != dev)
			continue;
		WRITE_ONCE(dmb->gone, true);
		if (dev->reg_state != NETREG_REGISTERED) {
			netdev_put(dev, &dmb->tracker);
			dmb->dev = NULL;
		}
		if (!dmb->releasing)
			queue_work(dmb_workers, &dmb->gone_work);
		wake_up_all(&dmb->wait);
	}
	mutex_unlock(&dmb_registry_lock);
}

static int dmb_device_event(struct notifier_block *block, unsigned long event, void *info)
{
	if (event == NETDEV_UNREGISTER)
		dmb_device_unregistered(netdev_notifier_info_to_dev(info));
	return NOTIFY_DONE;
}

static struct notifier_block dmb_device_notifier = { .notifier_call = dmb_device_event };

/* --- the end --- */

static void dmb_free(struct dmb_binding *dmb)
{
	put_cred(dmb->cred);
	put_pid(dmb->creator);
	kvfree(dmb->rss);
	mutex_destroy(&dmb->lock);
	kfree(dmb);
}

static void dmb_end(struct work_struct *work)
{
	struct dmb_binding *dmb = container_of(work, struct dmb_binding, release_work);

	mutex_lock(&dmb->lock);
	dmb_rules_remove(dmb);
	dmb_socket_close(&dmb->bind);
	dmb_settings_reset(dmb);
	rtnl_lock();
	dmb_device_forget(dmb);
	mutex_lock(&dmb_registry_lock);
	xa_erase(&dmb_registry, dmb->id);
	mutex_unlock(&dmb_registry_lock);
	rtnl_unlock();
	mutex_unlock(&dmb->lock);
	if (dmb->published)
		dmb_event_released(dmb);
	dmb_socket_close(&dmb->ask);	/* the namespace may go from here */
}

/* Nobody else knows of @dmb any more but the registry. */
void dmb_release(struct dmb_binding *dmb)
{
	rtnl_lock();
	mutex_lock(&dmb_registry_lock);
	dmb->releasing = true;
	mutex_unlock(&dmb_registry_lock);
	rtnl_unlock();
	flush_work(&dmb->gone_work);
	queue_work(dmb_workers, &dmb->release_work);
	flush_work(&dmb->release_work);
	dmb_free(dmb);
}

/* --- the beginning --- */

static struct dmb_binding *dmb_alloc(const struct devmem_binding_create *want, const u32 *queues)
{
	struct dmb_binding *dmb = kzalloc(struct_size(dmb, queues, want->queue_count), GFP_KERNEL_ACCOUNT);

	if (!dmb)
		return NULL;
	mutex_init(&dmb->lock);
	init_waitqueue_head(&dmb->wait);
	INIT_LIST_HEAD(&dmb->rules);
	INIT_WORK(&dmb->gone_work, dmb_gone);
	INIT_WORK(&dmb->release_work, dmb_end);
	dmb->cred = get_current_cred();
	dmb->creator = get_pid(task_tgid(current));
	dmb->ifindex = want->ifindex;
	dmb->rx_page_size = want->rx_page_size ?: PAGE_SIZE;
	dmb->queue_count = want->queue_count;
	memcpy(dmb->queues, queues, want->queue_count * sizeof(*queues));
	return dmb;
}

static int dmb_sockets_open(struct dmb_binding *dmb, struct dmb_said *said)
{
	int err;

	err = dmb_socket_open(&dmb->ask, "ethtool", said);
	if (err)
		return err;
	dmb->net = sock_net(dmb->ask.socket->sk);
	err = dmb_socket_open(&dmb->bind, "netdev", said);
	if (err)
		dmb_socket_close(&dmb->ask);
	return err;
}

static int dmb_bind_checked(struct dmb_binding *dmb, int dmabuf_fd, struct dmb_said *said)
{
	int err;

	mutex_lock(&dmb->lock);	/* the device may go at any time: dmb_gone() waits */
	err = dmb_settings_check(dmb, said) ?: dmb_rules_check_queues(dmb, said) ?: dmb_bind(dmb, dmabuf_fd, said);
	mutex_unlock(&dmb->lock);
	return err;
}

/* What is returned is not published, and is to be released whatever comes of it. */
struct dmb_binding *dmb_create(const struct devmem_binding_create *want, const u32 *queues, struct dmb_said *said)
{
	struct dmb_binding *dmb = dmb_alloc(want, queues);
	int err;

	if (!dmb)
		return ERR_PTR(-ENOMEM);
	err = dmb_sockets_open(dmb, said);
	if (err)
		goto err_free;
	err = dmb_device_find(dmb, said);
	if (err)
		goto err_close;
	err = dmb_bind_checked(dmb, want->dmabuf_fd, said);
	if (err) {
		dmb_release(dmb);
		return ERR_PTR(err);
	}
	return dmb;

err_close:
	dmb_socket_close(&dmb->bind);
	dmb_socket_close(&dmb->ask);
err_free:
	dmb_free(dmb);
	return ERR_PTR(err);
}

/* -ENODEV: the device went while it was bound, so what is bound may be anything. */
int dmb_publish(struct dmb_binding *dmb, const struct devmem_binding_create *want, struct dmb_said *said)
{
	int err = -ENODEV;

	rtnl_lock();
	mutex_lock(&dmb_registry_lock);
	if (!dmb->gone) {
		/* If another binding's end handed something over meanwhile, that was before what our creator saw. */
		if ((want->reset & DEVMEM_BINDING_RESET_SPLIT) && !(dmb->reset & DEVMEM_BINDING_RESET_SPLIT)) {
			dmb->split_before = want->split_before;
			dmb->threshold_before = want->threshold_before;
		}
		dmb->reset |= want->reset;
		dmb->published = true;
		err = 0;
	}
	mutex_unlock(&dmb_registry_lock);
	rtnl_unlock();
	if (err)
		dmb_say(said, "the network device %u went while the dma-buf was bound to it", dmb->ifindex);
	else
		dmb_event_created(dmb);
	return err;
}

int dmb_registry_init(void)
{
	int err;

	dmb_workers = alloc_workqueue("devmem_binding", WQ_UNBOUND, 0);
	if (!dmb_workers)
		return -ENOMEM;
	err = register_netdevice_notifier(&dmb_device_notifier);
	if (err)
		destroy_workqueue(dmb_workers);
	return err;
}

void dmb_registry_exit(void)
{
	unregister_netdevice_notifier(&dmb_device_notifier);
	destroy_workqueue(dmb_workers);
}
