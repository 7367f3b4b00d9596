/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A binding: device memory bound to Rx queues, the rules that steer to them, and one file that holds both.
 *
 * Locks, outermost first:
 *   dmb->lock		requests on the handle and the two ends (device gone, last holder gone), one after another
 *   cb_lock		the kernel's, within dmb_ask(): therefore dmb->lock is never taken in a generic netlink request
 *   rtnl		dmb->dev and what is done to it
 *   the device's lock	where it has one (dmb_device_begin())
 *   dmb_registry_lock	the list of bindings and what the family tells of them; nothing is taken within
 */
#ifndef DMB_BINDING_H
#define DMB_BINDING_H

#include <linux/cred.h>
#include <linux/ethtool.h>
#include <linux/mutex.h>
#include <linux/netdevice.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

#include <uapi/linux/devmem_binding.h>
#include <uapi/linux/devmem_binding_ioctl.h>

#include "ask.h"

/* Words for the caller of an ioctl. */
struct dmb_said {
	char text[DEVMEM_BINDING_MESSAGE_MAX];
};

#define dmb_say(said, ...)	snprintf((said)->text, sizeof((said)->text), __VA_ARGS__)

/* What a rule matches and where it leads, as the driver told it when the rule was new: only such a rule is ours to delete. */
struct dmb_rule {
	struct list_head list;
	u32 location;
	u32 queue;
	struct devmem_binding_flow flow;
	struct ethtool_rx_flow_spec told;
};

struct dmb_report {
	u32 rules_left;
	enum devmem_binding_outcome rss, split;
};

struct dmb_binding {
	struct mutex lock;
	u32 id;
	u32 dmabuf_id;
	u32 rx_page_size;

	/*
	 * Under rtnl. The reference is dropped within NETDEV_UNREGISTER, dev then is NULL; if the device only left the namespace, as
	 * soon as its rules are out (gone_work).
	 */
	struct net_device *dev;
	netdevice_tracker tracker;
	u32 ifindex;

	/*
	 * The binding lives as long as bind; ask is for all other requests. Both are sockets in the creator's network namespace,
	 * opened with his credentials, and hold a reference to the namespace, as any socket does.
	 */
	struct dmb_socket bind, ask;
	struct net *net;		/* held by ask */
	const struct cred *cred;	/* the creator's */
	struct pid *creator;

	/* Under dmb_registry_lock: another binding's end may hand over what it leaves (ethtool.c), until settled. */
	u32 reset;
	u32 split_before, threshold_before;
	u32 *rss;			/* the table at creation; NULL: the NIC has none */
	u32 rss_size;
	u32 rss_of;			/* the binding at whose creation it was so */
	bool settled;			/* nothing can be handed over any more */

	struct list_head rules;		/* of struct dmb_rule; under dmb->lock */
	u32 rule_count;			/* likewise; read by anybody */

	/* Under rtnl and dmb_registry_lock, either to read. */
	bool published;			/* it is made, and known outside */
	bool gone;			/* its device is */
	bool releasing;			/* its last holder is */

	wait_queue_head_t wait;		/* for gone */
	struct work_struct gone_work, release_work;
	struct dmb_report report;

	u32 queue_count;
	u32 queues[] __counted_by(queue_count);
};

/* binding.c: the registry, and a binding's life */
extern struct xarray dmb_registry;
extern struct mutex dmb_registry_lock;
struct dmb_binding *dmb_create(const struct devmem_binding_create *want, const u32 *queues, struct dmb_said *said);
int dmb_publish(struct dmb_binding *dmb, const struct devmem_binding_create *want, struct dmb_said *said);
void dmb_release(struct dmb_binding *dmb);
bool dmb_has_queue(const struct dmb_binding *dmb, u32 queue);
int dmb_registry_init(void);
void dmb_registry_exit(void);

/* rules.c: steering rules; under dmb->lock */
int dmb_device_begin(struct net_device *dev);
void dmb_device_end(struct net_device *dev);
int dmb_rules_check_queues(struct dmb_binding *dmb, struct dmb_said *said);
int dmb_rule_add(struct dmb_binding *dmb, struct devmem_binding_rule *rule, struct dmb_said *said);
int dmb_rule_delete(struct dmb_binding *dmb, u32 location, struct dmb_said *said);
void dmb_rules_remove(struct dmb_binding *dmb);

/* netdev.c: netdev-genl */
int dmb_bind(struct dmb_binding *dmb, int dmabuf_fd, struct dmb_said *said);

/* ethtool.c: RSS and header split, by ethtool netlink */
int dmb_settings_check(struct dmb_binding *dmb, struct dmb_said *said);
void dmb_settings_reset(struct dmb_binding *dmb);

/* handle.c */
struct file *dmb_handle_file(struct dmb_binding *dmb);

/* device.c */
int dmb_tell(struct dmb_said *said, u64 message, u32 size);
int dmb_device_init(void);
void dmb_device_exit(void);

/* family.c: what anybody may know */
void dmb_event_created(struct dmb_binding *dmb);
void dmb_event_gone(struct dmb_binding *dmb);
void dmb_event_released(struct dmb_binding *dmb);
int dmb_family_init(void);
void dmb_family_exit(void);

#endif
