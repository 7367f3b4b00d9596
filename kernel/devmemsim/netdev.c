// SPDX-License-Identifier: GPL-2.0
/* The net device: opening and closing, link state, features, creation. */
#include <linux/etherdevice.h>
#include <linux/platform_device.h>

#include "devmemsim.h"

/* --- link ------------------------------------------------------------------------------------------------------------ */

/* There is a carrier while both ends are up. */
static void dms_set_up(struct dms_port *port, bool up)
{
	struct dms_pair *pair = port->pair;
	bool carrier;
	int i;

	spin_lock_bh(&pair->lock);
	WRITE_ONCE(port->up, up);
	carrier = up && port->peer && port->peer->up;
	for (i = 0; i < 2; i++) {
		if (!pair->port[i])
			continue;
		if (carrier)
			netif_carrier_on(pair->port[i]->dev);
		else
			netif_carrier_off(pair->port[i]->dev);
	}
	spin_unlock_bh(&pair->lock);
}

static void dms_purge(struct dms_port *port)
{
	unsigned int i;

	for (i = 0; i < port->max_queues; i++)
		dms_rx_purge(&port->rxq[i]);
}

static int dms_open(struct net_device *dev)
{
	struct dms_port *port = dms_port(dev);
	int err;

	err = dms_queues_start(port, 0, port->channels);
	if (err)
		return err;
	netif_tx_start_all_queues(dev);
	dms_set_up(port, true);
	return 0;
}

static int dms_stop(struct net_device *dev)
{
	struct dms_port *port = dms_port(dev);

	netif_tx_stop_all_queues(dev);
	dms_set_up(port, false);
	synchronize_net();	/* dms_launch() saw the port up for the last time */
	dms_queues_stop(port, 0, port->channels);
	dms_purge(port);
	dms_purge(port->peer);	/* what this port sent: a NIC forgets its Tx ring when it is closed */
	return 0;
}

/* --- features ---------------------------------------------------------------------------------------------------------- */

static netdev_features_t dms_fix_features(struct net_device *dev, netdev_features_t features)
{
	struct dms_port *port = dms_port(dev);

	if (port->personality->split_wants_gro_hw && dms_split_on(port, &port->config) && !(features & NETIF_F_GRO_HW)) {
		netdev_warn(dev, "rx-gro-hw stays on: tcp-data-split needs it\n");
		features |= NETIF_F_GRO_HW;
	}
	return features;
}

static int dms_set_features(struct net_device *dev, netdev_features_t features)
{
	dms_steer_features(dms_port(dev), features);
	return 0;
}

/*
 * The core's own checks (GSO size, unreadable frags, vlan tags) come after this; nothing of ours is narrower: frames are
 * cut by skb_gso_segment(), which knows every tunnel.
 */
static netdev_features_t dms_features_check(struct sk_buff *skb, struct net_device *dev, netdev_features_t features)
{
	return features;
}

static const struct net_device_ops dms_netdev_ops = {
	.ndo_open = dms_open,
	.ndo_stop = dms_stop,
	.ndo_start_xmit = dms_xmit,
	.ndo_get_stats64 = dms_get_stats64,
	.ndo_fix_features = dms_fix_features,
	.ndo_set_features = dms_set_features,
	.ndo_features_check = dms_features_check,
	.ndo_set_mac_address = eth_mac_addr,
	.ndo_validate_addr = eth_validate_addr,
};

/* --- creation ------------------------------------------------------------------------------------------------------------ */

static int dms_port_alloc_queues(struct dms_port *port, unsigned int queues)
{
	unsigned int i;

	port->rxq = kvcalloc(queues, sizeof(*port->rxq), GFP_KERNEL);
	port->txq = kvcalloc(queues, sizeof(*port->txq), GFP_KERNEL);
	if (!port->rxq || !port->txq)
		return -ENOMEM;
	for (i = 0; i < queues; i++) {
		port->rxq[i].port = port;
		port->rxq[i].index = i;
		dms_rx_init(&port->rxq[i]);
		port->txq[i].port = port;
		port->txq[i].index = i;
		u64_stats_init(&port->txq[i].sync);
	}
	return 0;
}

/* A NIC's own address, the same each time it is found: by it a NIC is known again in another network namespace. */
static void dms_set_address(struct net_device *dev, unsigned int pair, unsigned int end)
{
	const u8 address[ETH_ALEN] = { 0x02, 'd', 'm', 's', pair, end };

	eth_hw_addr_set(dev, address);
	dev->addr_assign_type = NET_ADDR_PERM;
}

static void dms_setup(struct net_device *dev)
{
	const netdev_features_t tunnels = NETIF_F_GSO_UDP_TUNNEL | NETIF_F_GSO_UDP_TUNNEL_CSUM | NETIF_F_GSO_GRE |
					  NETIF_F_GSO_GRE_CSUM | NETIF_F_GSO_IPXIP4 | NETIF_F_GSO_IPXIP6;
	const netdev_features_t offloads = NETIF_F_SG | NETIF_F_HW_CSUM | NETIF_F_HIGHDMA | NETIF_F_TSO | NETIF_F_TSO6 |
					   NETIF_F_TSO_ECN | NETIF_F_TSO_MANGLEID | NETIF_F_GSO_UDP_L4;

	dev->netdev_ops = &dms_netdev_ops;
	dev->ethtool_ops = &dms_ethtool_ops;
	dev->stat_ops = &dms_stat_ops;
	dev->hw_features = offloads | tunnels | NETIF_F_RXCSUM | NETIF_F_RXHASH | NETIF_F_NTUPLE;
	dev->features = dev->hw_features;
	dev->hw_features |= NETIF_F_GRO_HW;
	dev->vlan_features = offloads;
	dev->hw_enc_features = offloads | tunnels;
	dev->max_mtu = DMS_MAX_MTU;
	dev->priv_flags |= IFF_LIVE_ADDR_CHANGE;
	dms_set_netmem_tx(dev);
	netif_carrier_off(dev);
}

/* Not registered yet: the pair's two ports must know each other first (main.c). */
struct dms_port *dms_port_create(struct dms_pair *pair, unsigned int end, unsigned int queues,
				 const struct dms_personality *personality)
{
	struct net_device *dev;
	struct dms_port *port;
	int err;

	port = kzalloc(sizeof(*port), GFP_KERNEL);
	if (!port)
		return ERR_PTR(-ENOMEM);
	port->pair = pair;
	port->personality = personality;
	port->max_queues = queues;
	port->channels = queues;
	port->tx_ring = DMS_DEFAULT_TX_RING;
	port->config.ring = DMS_DEFAULT_RING;
	port->config.hds = ETHTOOL_TCP_DATA_SPLIT_UNKNOWN;
	snprintf(port->id, sizeof(port->id), "pair%u-%c", pair->id, 'a' + end);

	dev = alloc_etherdev_mqs(sizeof(struct dms_port *), queues, queues);
	if (!dev) {
		kfree(port);
		return ERR_PTR(-ENOMEM);
	}
	port->dev = dev;
	*(struct dms_port **)netdev_priv(dev) = port;
	strscpy(dev->name, "dms%d", sizeof(dev->name));
	dms_set_address(dev, pair->id, end);
	dev->dev_port = end;
	SET_NETDEV_DEV(dev, &pair->parent->dev);
	dms_setup(dev);
	netdev_lockdep_set_classes(dev);	/* both ports of a pair are locked at once when they go */
	dms_queues_init(port);

	err = dms_port_alloc_queues(port, queues);
	if (!err)
		err = dms_steer_init(port);
	if (err) {
		dms_port_free(port);
		return ERR_PTR(err);
	}
	return port;
}

/* After unregister_netdev(), or before register_netdev(). */
void dms_port_free(struct dms_port *port)
{
	dms_steer_free(port);
	kvfree(port->rxq);
	kvfree(port->txq);
	free_netdev(port->dev);
	kfree(port);
}
