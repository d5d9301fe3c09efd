// Package volume makes a folder of the node for each claim of its StorageClass,
// and deletes it with the claim. Sizes are not enforced.
package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	storage "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// Provisioner is what a StorageClass names to have its volumes from here.
const Provisioner = "berth.dev/folder"

const (
	wantedFrom = "volume.kubernetes.io/storage-provisioner" // set on a claim when it needs a volume
	madeBy     = "pv.kubernetes.io/provisioned-by"
)

// Add makes the manager serve volumes below folder.
func Add(mgr ctrl.Manager, folder string) error {
	v := volumes{Client: mgr.GetClient(), folder: folder}
	return errors.Join(
		ctrl.NewControllerManagedBy(mgr).For(&corev1.PersistentVolumeClaim{}).Complete(reconcile.Func(v.provide)),
		ctrl.NewControllerManagedBy(mgr).For(&corev1.PersistentVolume{}).Complete(reconcile.Func(v.reclaim)))
}

type volumes struct {
	client.Client
	folder string
}

func (v volumes) provide(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	claim := &corev1.PersistentVolumeClaim{}
	if err := v.Get(ctx, request.NamespacedName, claim); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if claim.Annotations[wantedFrom] != Provisioner || claim.Spec.VolumeName != "" || claim.DeletionTimestamp != nil {
		return ctrl.Result{}, nil
	}
	class := &storage.StorageClass{}
	if err := v.Get(ctx, client.ObjectKey{Name: ptr.Deref(claim.Spec.StorageClassName, "")}, class); err != nil {
		return ctrl.Result{}, fmt.Errorf("reading class of claim %s: %w", request, err)
	}
	volume := v.volume(claim, class)
	// Pods run as anybody, and fsGroup does not apply to folders of the node.
	folder := volume.Spec.HostPath.Path
	if err := errors.Join(os.MkdirAll(folder, 0o777), os.Chmod(folder, 0o777)); err != nil {
		return ctrl.Result{}, fmt.Errorf("making volume: %w", err)
	}
	return ctrl.Result{}, client.IgnoreAlreadyExists(v.Create(ctx, volume))
}

func (v volumes) volume(claim *corev1.PersistentVolumeClaim, class *storage.StorageClass) *corev1.PersistentVolume {
	name := "pvc-" + string(claim.UID)
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{madeBy: Provisioner}},
		Spec: corev1.PersistentVolumeSpec{
			StorageClassName:              class.Name,
			PersistentVolumeReclaimPolicy: ptr.Deref(class.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete),
			AccessModes:                   claim.Spec.AccessModes,
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: claim.Spec.Resources.Requests[corev1.ResourceStorage]},
			ClaimRef: &corev1.ObjectReference{
				APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID,
			},
			PersistentVolumeSource: corev1.PersistentVolumeSource{
				HostPath: &corev1.HostPathVolumeSource{Path: filepath.Join(v.folder, name)},
			},
		},
	}
}

func (v volumes) reclaim(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	volume := &corev1.PersistentVolume{}
	if err := v.Get(ctx, request.NamespacedName, volume); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if volume.Annotations[madeBy] != Provisioner || volume.Status.Phase != corev1.VolumeReleased ||
		volume.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete {
		return ctrl.Result{}, nil
	}
	// The folder follows from the name: what the object says of it is not trusted.
	if err := os.RemoveAll(filepath.Join(v.folder, volume.Name)); err != nil {
		return ctrl.Result{}, fmt.Errorf("deleting volume: %w", err)
	}
	return ctrl.Result{}, client.IgnoreNotFound(v.Delete(ctx, volume))
}
