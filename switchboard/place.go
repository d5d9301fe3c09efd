package switchboard

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/berth-dev/berth/webhook"
)

// Service is the name of the Service in front of the leader, of its
// EndpointSlice, and of the Secret with the certificates.
const Service = "berth-switchboard"

func (o Options) address() string { return cmp.Or(o.Address, o.Listener.Addr().String()) }

// certificates of the address; pods learn of the authorities from the webhook,
// and from the first line of each stream.
func (o Options) certificates(authorities *atomic.Pointer[string]) *webhook.Certificates {
	host, _, _ := net.SplitHostPort(o.address())
	return &webhook.Certificates{
		API: o.API, Secret: client.ObjectKey{Namespace: o.Namespace, Name: Service}, Names: []string{host}, Log: o.Log,
		Publish: func(ctx context.Context, bundle []byte) error {
			text := string(bundle)
			authorities.Store(&text)
			return errors.Join(o.lead(ctx), o.announce(ctx, text))
		},
	}
}

// keep renews the certificates, and repairs what is published, until ctx ends.
func (o Options) keep(ctx context.Context, certificates *webhook.Certificates) {
	soon, later := time.NewTicker(250*time.Millisecond), time.NewTicker(time.Minute)
	defer soon.Stop()
	defer later.Stop()
	for {
		if err := certificates.Refresh(ctx); err == nil {
			soon.Stop()
		} else if ctx.Err() == nil {
			o.Log.Error("keeping the switchboard's certificates", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-soon.C:
		case <-later.C:
		}
	}
}

// announce tells the webhook what to put into pods. Nothing of it is secret.
func (o Options) announce(ctx context.Context, bundle string) error {
	notice := &corev1.ConfigMap{}
	notice.Namespace, notice.Name = o.Namespace, webhook.SwitchboardNotice
	_, err := controllerutil.CreateOrUpdate(ctx, o.API, notice, func() error {
		notice.Data = webhook.Switchboard{Address: o.address(), Authorities: bundle}.Notice()
		return nil
	})
	if err != nil {
		return fmt.Errorf("writing ConfigMap %s: %w", notice.Name, err)
	}
	return nil
}

// lead has the Service, which selects no pods, lead to this process alone.
func (o Options) lead(ctx context.Context) error {
	if o.Endpoint == nil {
		return nil
	}
	_, text, err := net.SplitHostPort(o.Listener.Addr().String())
	if err != nil {
		return fmt.Errorf("reading the switchboard's address: %w", err)
	}
	port, err := strconv.ParseInt(text, 10, 32)
	if err != nil {
		return fmt.Errorf("reading the switchboard's address: %w", err)
	}
	family := discoveryv1.AddressTypeIPv6
	if o.Endpoint.To4() != nil {
		family = discoveryv1.AddressTypeIPv4
	}
	slice := &discoveryv1.EndpointSlice{}
	slice.Namespace, slice.Name = o.Namespace, Service
	_, err = controllerutil.CreateOrUpdate(ctx, o.API, slice, func() error {
		if slice.Labels == nil {
			slice.Labels = map[string]string{}
		}
		slice.Labels[discoveryv1.LabelServiceName], slice.Labels[discoveryv1.LabelManagedBy] = Service, "berth-controller"
		slice.AddressType = family
		slice.Endpoints = []discoveryv1.Endpoint{{Addresses: []string{o.Endpoint.String()}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)}}}
		slice.Ports = []discoveryv1.EndpointPort{{Name: ptr.To("switchboard"), Protocol: ptr.To(corev1.ProtocolTCP), Port: ptr.To(int32(port))}}
		return nil
	})
	if err != nil {
		return fmt.Errorf("writing EndpointSlice %s: %w", slice.Name, err)
	}
	return nil
}
