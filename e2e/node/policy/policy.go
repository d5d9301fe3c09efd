// Package policy enforces NetworkPolicies on the node it runs on, by one
// nftables table that is replaced as a whole.
//
// A new policy leaves connections that exist alone, and a new pod is open until
// the table knows its address. IPv6 is not covered.
package policy

import (
	"context"
	"fmt"
	"os"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"

	"github.com/berth-dev/berth/process"
)

// Add makes the manager keep the table. Each of others counts as a pod that
// policies may name; file is where the table is written for nft to read.
func Add(mgr ctrl.Manager, file string, others ...Pod) error {
	e := &enforcer{Reader: mgr.GetClient(), file: file, others: others}
	all := handler.EnqueueRequestsFromMapFunc(func(context.Context, client.Object) []ctrl.Request {
		return []ctrl.Request{{}}
	})
	return ctrl.NewControllerManagedBy(mgr).Named("policies").
		Watches(&networking.NetworkPolicy{}, all).
		Watches(&corev1.Namespace{}, all).
		Watches(&corev1.Pod{}, all).
		Complete(e)
}

type enforcer struct {
	client.Reader
	file    string
	others  []Pod
	applied string
}

// Reconcile replaces the table when it has to change.
func (e *enforcer) Reconcile(ctx context.Context, _ ctrl.Request) (ctrl.Result, error) {
	w, err := e.read(ctx)
	if err != nil {
		return ctrl.Result{}, err
	}
	table, err := w.table()
	if err != nil || table == e.applied {
		return ctrl.Result{}, err
	}
	if err := os.WriteFile(e.file, []byte(table), 0o600); err != nil {
		return ctrl.Result{}, fmt.Errorf("writing table: %w", err)
	}
	var said strings.Builder
	if err := process.Run(ctx, process.Spec{Path: "nft", Args: []string{"--file", e.file}, Log: &said}); err != nil {
		return ctrl.Result{}, fmt.Errorf("applying table: %w: %s", err, said.String())
	}
	e.applied = table
	return ctrl.Result{}, nil
}

func (e *enforcer) read(ctx context.Context) (world, error) {
	var (
		pods       corev1.PodList
		namespaces corev1.NamespaceList
		policies   networking.NetworkPolicyList
	)
	for _, list := range []client.ObjectList{&pods, &namespaces, &policies} {
		if err := e.List(ctx, list); err != nil {
			return world{}, fmt.Errorf("listing objects: %w", err)
		}
	}
	w := world{pods: e.others, namespaces: map[string]labels.Set{}, policies: policies.Items}
	for _, namespace := range namespaces.Items {
		w.namespaces[namespace.Name] = namespace.Labels
	}
	for _, pod := range pods.Items {
		ended := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
		if pod.Status.PodIP == "" || pod.Spec.HostNetwork || ended {
			continue
		}
		p := Pod{Namespace: pod.Namespace, Labels: pod.Labels, Address: pod.Status.PodIP}
		for _, container := range append(pod.Spec.InitContainers, pod.Spec.Containers...) {
			p.Ports = append(p.Ports, container.Ports...)
		}
		w.pods = append(w.pods, p)
	}
	return w, nil
}
