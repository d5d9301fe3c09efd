package duckling

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/naming"
	"github.com/berth-dev/berth/postgres"
	"github.com/berth-dev/berth/warehouse"
)

// status is what of a composite's status berth reads.
type status struct {
	MetadataStore struct {
		Type                string                       `json:"type"`
		Endpoint            string                       `json:"endpoint"`
		User                string                       `json:"user"`
		Database            string                       `json:"database"`
		Password            string                       `json:"password"`
		PgBouncerEndpoint   string                       `json:"pgbouncerEndpoint"`
		CredentialSecretRef *v1alpha1.SecretKeyReference `json:"credentialSecretRef"`
	} `json:"metadataStore"`
	DataStore struct {
		BucketName string `json:"bucketName"`
		S3Region   string `json:"s3Region"`
	} `json:"dataStore"`
	IAMRoleARN string `json:"iamRoleArn"`
	Iceberg    struct {
		TableBucketARN string `json:"tableBucketArn"`
		Region         string `json:"region"`
		NamespaceName  string `json:"namespaceName"`
	} `json:"iceberg"`
	Conditions []metav1.Condition `json:"conditions"`
}

const postgresPort = 5432

func statusOf(composite *unstructured.Unstructured) status {
	var s status
	body, err := json.Marshal(composite.Object["status"])
	if err == nil {
		// A status that is not there yet, or of another form, is an empty one.
		_ = json.Unmarshal(body, &s)
	}
	return s
}

// read turns a composite into what it tells about its warehouse.
func (p *Provider) read(composite *unstructured.Unstructured) warehouse.Observed {
	s := statusOf(composite)
	found := warehouse.Observed{
		Composite: p.reference(composite), Exists: true, Terminating: composite.GetDeletionTimestamp() != nil,
		Waiting: p.Kind.Kind + " CR exists, waiting for resources",
	}
	ready := meta.FindStatusCondition(s.Conditions, "Ready")
	synced := meta.FindStatusCondition(s.Conditions, "Synced")
	// While it is not synced, Ready and all fields speak of an earlier spec.
	found.Ready = ready != nil && ready.Status == metav1.ConditionTrue && (synced == nil || synced.Status != metav1.ConditionFalse)
	if synced != nil && synced.Status == metav1.ConditionFalse {
		found.Unsynced = scrub(cmp.Or(synced.Message, synced.Reason, "it is not synced, and does not say why"))
		found.UnsyncedSince = synced.LastTransitionTime.Time
	}
	if store := s.MetadataStore; store.Endpoint != "" {
		found.MetadataStore = &v1alpha1.MetadataStoreStatus{
			Kind: store.Type, Endpoint: store.Endpoint, Port: postgresPort, Database: store.Database, Username: store.User,
			Pooler: store.PgBouncerEndpoint, SSLMode: "require", Credential: store.CredentialSecretRef,
		}
		if store.PgBouncerEndpoint != "" {
			found.MetadataStore.SSLMode = "disable" // the pooler stands beside the workers and speaks no TLS
		}
	}
	if s.DataStore.BucketName != "" {
		found.DataStore = &v1alpha1.DataStoreStatus{BucketName: s.DataStore.BucketName, Region: s.DataStore.S3Region}
	}
	if s.IAMRoleARN != "" {
		found.Identity = &v1alpha1.IdentityStatus{RoleARN: s.IAMRoleARN}
	}
	if s.Iceberg.TableBucketARN != "" || s.Iceberg.NamespaceName != "" {
		found.Iceberg = &v1alpha1.IcebergStatus{TableBucketARN: s.Iceberg.TableBucketARN, Region: s.Iceberg.Region, Namespace: s.Iceberg.NamespaceName}
	}
	return found
}

// readLogin completes found with the path that workers use. Only a Secret that
// is the org's own is read; a password in the composite itself, which anybody
// who reads composites sees, is put into one.
func (p *Provider) readLogin(ctx context.Context, w *v1alpha1.Warehouse, composite *unstructured.Unstructured, found *warehouse.Observed) error {
	store, plain := found.MetadataStore, statusOf(composite).MetadataStore.Password
	if store == nil {
		return nil
	}
	password := plain
	switch ref := store.Credential; {
	case ref != nil:
		secret := &corev1.Secret{}
		ref.Namespace, ref.Key = cmp.Or(ref.Namespace, p.Namespace), cmp.Or(ref.Key, "password")
		reason := p.notTheirs(w, composite, ref, secret)
		if reason == "" { // its name allows to read it
			if err := p.Live.Get(ctx, client.ObjectKey{Namespace: ref.Namespace, Name: ref.Name}, secret); client.IgnoreNotFound(err) != nil {
				return p.explain("reading the Secret of", composite, err)
			}
			reason = p.notTheirs(w, composite, ref, secret)
		}
		if reason != "" {
			store.Credential, found.SecretReason, found.SecretFault = nil, "SecretNotTheirs", reason
			return nil
		}
		if password = string(secret.Data[ref.Key]); password == "" {
			found.SecretReason, found.SecretFault = "SecretMissing", fmt.Sprintf("There is no Secret %s with the key %s.", ref.Name, ref.Key)
		}
	case plain != "":
		store.Credential = &v1alpha1.SecretKeyReference{Namespace: p.Secrets, Name: naming.Metadata(w.Name), Key: "password"}
		if err := p.keep(ctx, w, plain); err != nil {
			return err
		}
	}
	if password == "" {
		return nil
	}
	host, port := store.Endpoint, uint16(store.Port)
	if store.Pooler != "" {
		h, text, _ := net.SplitHostPort(store.Pooler) // what is malformed has no port
		n, _ := strconv.ParseUint(text, 10, 16)
		if host, port = h, uint16(n); port == 0 {
			found.SecretReason, found.SecretFault = "PoolerMalformed", "The pooler's endpoint is not of the form host:port."
			return nil
		}
	}
	found.Login = &postgres.Target{Host: host, Port: port, User: store.Username, Password: password, Database: store.Database, SSLMode: store.SSLMode}
	return nil
}

// notTheirs says why a Secret that a composite names is not the org's.
func (p *Provider) notTheirs(w *v1alpha1.Warehouse, composite *unstructured.Unstructured, ref *v1alpha1.SecretKeyReference, secret *corev1.Secret) string {
	switch of := secret.Labels["crossplane.io/composite"]; {
	case ref.Namespace != p.Namespace:
		return fmt.Sprintf("The composite names a Secret of namespace %s; only %s counts.", ref.Namespace, p.Namespace)
	case !naming.OwnedBy(w.Name, ref.Name):
		return fmt.Sprintf("The composite names Secret %s; its name must begin with %s-.", ref.Name, w.Name)
	case of != "" && of != composite.GetName():
		return fmt.Sprintf("Secret %s belongs to composite %s.", ref.Name, of)
	}
	return ""
}

// keep writes a password that a composite shows to a Secret of berth's own.
func (p *Provider) keep(ctx context.Context, w *v1alpha1.Warehouse, password string) error {
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: p.Secrets, Name: naming.Metadata(w.Name)}}
	_, err := controllerutil.CreateOrPatch(ctx, p.Client, secret, func() error {
		secret.Labels = naming.Labels(naming.WarehouseKind, w.Name)
		secret.Data = map[string][]byte{"password": []byte(password)}
		return controllerutil.SetOwnerReference(w, secret, p.Client.Scheme())
	})
	if err != nil {
		return fmt.Errorf("keeping the password of %s: %w", w.Name, err)
	}
	return nil
}
