package credential

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/berth-dev/berth/naming"
)

// entry is the password of one version. It is written before the password is
// used anywhere, so that whatever was done with it can be done again.
type entry struct {
	version  int64
	password string
}

// JournalLabel marks journals. They lack the label of what berth publishes, so
// that no cache holds them.
const JournalLabel = "berth.dev/journal"

func (r *Rotation) journalKey() client.ObjectKey {
	return client.ObjectKey{Namespace: r.Object.GetNamespace(), Name: naming.Journal(r.Kind, r.Object.GetName())}
}

// readJournal returns the entry and the Secret it was read from; both are nil
// when there is none, the entry alone when it makes no sense.
func (r *Rotation) readJournal(ctx context.Context) (*entry, *corev1.Secret, error) {
	secret := &corev1.Secret{}
	switch err := r.keeper.Live.Get(ctx, r.journalKey(), secret); {
	case apierrors.IsNotFound(err):
		return nil, nil, nil
	case err != nil:
		return nil, nil, fmt.Errorf("reading the journal: %w", err)
	}
	version, err := strconv.ParseInt(string(secret.Data["version"]), 10, 64)
	password := string(secret.Data[KeyPassword])
	if err == nil && version >= 1 && password != "" {
		return &entry{version, password}, secret, nil
	}
	return nil, secret, nil
}

// writeJournal replaces what old held; a lost race is a conflict or AlreadyExists.
func (r *Rotation) writeJournal(ctx context.Context, e *entry, old *corev1.Secret) error {
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{
		Namespace: r.journalKey().Namespace, Name: r.journalKey().Name,
		Labels: map[string]string{JournalLabel: r.Kind},
	}}
	if old != nil {
		secret = old
	}
	secret.Data = map[string][]byte{
		"version": []byte(strconv.FormatInt(e.version, 10)), KeyPassword: []byte(e.password),
	}
	if err := controllerutil.SetOwnerReference(r.Object, secret, r.keeper.Client.Scheme()); err != nil {
		return fmt.Errorf("owning the journal: %w", err)
	}
	if old != nil {
		return r.keeper.Client.Update(ctx, secret)
	}
	return r.keeper.Client.Create(ctx, secret)
}

// journalled returns the journal's entry for version, writing it first if need
// be. Where the status tells of no credential, the journal is believed instead.
func (r *Rotation) journalled(ctx context.Context, version int64) (*entry, error) {
	next := &entry{version, NewPassword(r.Password)}
	if *r.Current == nil {
		if err := r.writeJournal(ctx, next, nil); !apierrors.IsAlreadyExists(err) {
			return next, err
		}
	}
	journal, old, err := r.readJournal(ctx)
	if err != nil {
		return nil, err
	}
	if journal != nil && (*r.Current == nil || journal.version == version) {
		return journal, nil
	}
	if err := r.confirm(ctx); err != nil {
		return nil, err
	}
	return next, r.writeJournal(ctx, next, old)
}

// confirm returns a conflict when the tenant's object changed since it was
// read: by an old status, a login in use could be taken for the idle one.
func (r *Rotation) confirm(ctx context.Context) error {
	kind, err := r.keeper.Client.GroupVersionKindFor(r.Object)
	if err != nil {
		return fmt.Errorf("naming the kind of %s: %w", r.Object.GetName(), err)
	}
	newest := &metav1.PartialObjectMetadata{}
	newest.SetGroupVersionKind(kind)
	if err := r.keeper.Live.Get(ctx, client.ObjectKeyFromObject(r.Object), newest); err != nil {
		return fmt.Errorf("reading the newest %s: %w", r.Kind, err)
	}
	if newest.ResourceVersion != r.Object.GetResourceVersion() {
		return apierrors.NewConflict(schema.GroupResource{Resource: r.Kind}, r.Object.GetName(), errors.New("the status that was read is old"))
	}
	return nil
}

func (r *Rotation) dropJournal(ctx context.Context) error {
	journal := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: r.journalKey().Namespace, Name: r.journalKey().Name}}
	if err := client.IgnoreNotFound(r.keeper.Client.Delete(ctx, journal)); err != nil {
		return fmt.Errorf("deleting the journal: %w", err)
	}
	return nil
}
