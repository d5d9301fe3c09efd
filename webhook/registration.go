package webhook

import (
	"bytes"
	"cmp"
	"context"
	"fmt"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/util/retry"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	deploy "github.com/berth-dev/berth/deploy/webhook"
)

// Registration is the MutatingWebhookConfiguration that has the API server ask.
type Registration struct {
	API  client.Client
	Name string // empty is that of deploy/webhook
	// URL makes the API server call it, instead of the Service in a cluster.
	// The whole configuration is then ours; otherwise only the authority in it
	// is, and the rest is as the chart or a person left it.
	URL string
}

// Publish writes the authority's bundle into every entry. It writes nothing
// when all is so already.
func (r Registration) Publish(ctx context.Context, bundle []byte) error {
	want, err := r.configuration(bundle)
	if err != nil {
		return err
	}
	err = retry.RetryOnConflict(retry.DefaultRetry, func() error { return r.write(ctx, want, bundle) })
	if err != nil {
		return fmt.Errorf("writing MutatingWebhookConfiguration %s: %w", want.Name, err)
	}
	return nil
}

func (r Registration) write(ctx context.Context, want *admissionregistrationv1.MutatingWebhookConfiguration, bundle []byte) error {
	have := &admissionregistrationv1.MutatingWebhookConfiguration{}
	err := r.API.Get(ctx, client.ObjectKeyFromObject(want), have)
	if apierrors.IsNotFound(err) && r.URL != "" {
		return r.API.Create(ctx, want.DeepCopy())
	}
	if err != nil {
		return err
	}
	before := have.DeepCopy()
	if r.URL != "" {
		have.Webhooks = want.DeepCopy().Webhooks
		for i := range have.Webhooks {
			have.Webhooks[i].MatchPolicy = ptr.To(admissionregistrationv1.Equivalent) // the API server's default
		}
	}
	for i := range have.Webhooks {
		if to := &have.Webhooks[i].ClientConfig; !bytes.Equal(to.CABundle, bundle) {
			to.CABundle = bundle
		}
	}
	if equality.Semantic.DeepEqual(before, have) {
		return nil
	}
	return r.API.Update(ctx, have)
}

func (r Registration) configuration(bundle []byte) (*admissionregistrationv1.MutatingWebhookConfiguration, error) {
	want := &admissionregistrationv1.MutatingWebhookConfiguration{}
	if err := yaml.UnmarshalStrict(deploy.Configuration, want); err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	want.Name = cmp.Or(r.Name, want.Name)
	for i := range want.Webhooks {
		to := &want.Webhooks[i].ClientConfig
		to.CABundle = bundle
		if r.URL != "" {
			to.Service, to.URL = nil, &r.URL
		}
	}
	return want, nil
}
