package direct

import (
	"errors"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/credentials"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-dev/berth/agent/s3/s3test"
	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/testkit"
	worldkit "github.com/berth-dev/berth/internal/testkit/world"
	"github.com/berth-dev/berth/warehouse"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func newStore(t *testing.T) (*Store, *s3test.Server) {
	t.Helper()
	server := s3test.Start(t)
	root := server.Root()
	return &Store{Endpoint: server.URL, Region: s3test.Region, Keys: credentials.NewStaticCredentialsProvider(root.AccessKeyID, root.SecretAccessKey, "")}, server
}

func TestABucketIsMadeMarkedAndRemovedOnceEmpty(t *testing.T) {
	t.Parallel()
	s, server := newStore(t)
	see := func(want bucket) {
		t.Helper()
		if got, err := s.look(t.Context(), "berth-acme"); err != nil || got != want {
			t.Errorf("the bucket is %+v, want %+v: %v", got, want, err)
		}
	}
	see(bucket{})
	for range 2 { // repeating it changes nothing
		if err := s.make(t.Context(), "berth-acme", "acme"); err != nil {
			t.Fatal(err)
		}
		see(bucket{exists: true, owner: "acme"})
	}
	if err := s.make(t.Context(), "berth-acme", "umbrella"); err != nil {
		t.Fatal(err)
	}
	see(bucket{exists: true, owner: "acme"})
	server.MakeBucket(t, "berth-half") // an attempt ended before the mark
	if err := s.make(t.Context(), "berth-half", "acme"); err != nil {
		t.Fatal(err)
	}
	server.Put(t, "berth-acme/only-copy", []byte("x"))
	if err := s.remove(t.Context(), "berth-acme"); !errors.Is(err, errNotEmpty) {
		t.Errorf("removing a bucket with an object: %v", err)
	}
	see(bucket{exists: true, owner: "acme"})
	for range 2 {
		if err := s.remove(t.Context(), "berth-half"); err != nil {
			t.Errorf("removing an empty bucket: %v", err)
		}
	}
}

func TestErrorsOfTheStoreHoldNoKey(t *testing.T) {
	t.Parallel()
	s, server := newStore(t)
	s.Keys = credentials.NewStaticCredentialsProvider(server.Root().AccessKeyID, "not-the-secret", "")
	_, err := s.look(t.Context(), "berth-acme")
	if err == nil || strings.Contains(err.Error(), "not-the-secret") || !strings.Contains(err.Error(), "SignatureDoesNotMatch") {
		t.Errorf("with a wrong key: %v", err)
	}
	s.Endpoint = "http://127.0.0.1:1"
	if _, err := s.look(t.Context(), "berth-acme"); err == nil || !strings.Contains(err.Error(), "cannot be reached") {
		t.Errorf("with nobody there: %v", err)
	}
}

// Two orgs that name one bucket do not share it.
func TestABucketOfAnotherOrgIsRefused(t *testing.T) {
	t.Parallel()
	s, _ := newStore(t)
	api := testkit.Client(t, worldkit.Scheme())
	p := &Provider{Client: api, Live: api, Namespace: testkit.Namespace(t), Store: s}
	of := func(name string) *v1alpha1.Warehouse {
		return &v1alpha1.Warehouse{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}, Spec: v1alpha1.WarehouseSpec{
			MetadataStore: v1alpha1.MetadataStoreSpec{Type: "class", Class: "none"}, DataStore: v1alpha1.DataStoreSpec{Type: "s3bucket", BucketName: "shared"}}}
	}
	found, err := p.Apply(t.Context(), of("acme"), warehouse.Observed{})
	if err != nil || found.DataStore.BucketName != "shared" || found.Ready || !strings.Contains(found.Identity.Policy, "arn:aws:s3:::shared/*") {
		t.Fatalf("the first to name it has %+v: %v", found, err)
	}
	var refusal *warehouse.Refusal
	if _, err := p.Observe(t.Context(), of("umbrella")); !errors.As(err, &refusal) || refusal.Reason != "BucketNotTheirs" {
		t.Errorf("the second gets %v", err)
	}
	if err := p.Delete(t.Context(), of("umbrella")); err != nil {
		t.Error(err)
	}
	if b, err := s.look(t.Context(), "shared"); err != nil || b.owner != "acme" {
		t.Errorf("the second one's end took the bucket: %+v %v", b, err)
	}
}
