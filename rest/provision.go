package rest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// Idempotent lets a client repeat a request whose answer it lost.
type Idempotent struct {
	Key string `header:"Idempotency-Key" maxLength:"255" doc:"The same key and body are carried out once"`
}

// request is how a request is remembered: by digests, on what it changed.
func (i Idempotent) request(verb string, body any) v1alpha1.WarehouseRequest {
	if i.Key == "" {
		return v1alpha1.WarehouseRequest{Verb: verb}
	}
	text, _ := json.Marshal(body) // a body that came as JSON goes as JSON
	return v1alpha1.WarehouseRequest{Verb: verb, KeyDigest: digest([]byte(i.Key)), BodyDigest: digest(text)}
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// repeated reports whether w already is what r asked for. The same key with
// another body is an error of the client's.
func repeated(w *v1alpha1.Warehouse, r v1alpha1.WarehouseRequest) (bool, error) {
	for _, earlier := range w.Spec.Requests {
		if r.KeyDigest != "" && earlier.Verb == r.Verb && earlier.KeyDigest == r.KeyDigest {
			if earlier.BodyDigest != r.BodyDigest {
				return false, errOtherBody
			}
			return true, nil
		}
	}
	return false, nil
}

var errOtherBody = fail(http.StatusUnprocessableEntity, "this Idempotency-Key was used with another body")

// remember keeps the last request of each verb that carried a key.
func remember(w *v1alpha1.Warehouse, r v1alpha1.WarehouseRequest) {
	w.Spec.Requests = slices.DeleteFunc(w.Spec.Requests, func(earlier v1alpha1.WarehouseRequest) bool { return earlier.Verb == r.Verb })
	if r.KeyDigest != "" {
		w.Spec.Requests = append(w.Spec.Requests, r)
	}
}

// started is the answer to what goes on after it.
type started struct {
	Status    string `json:"status"`
	Org       string `json:"org"`
	Operation string `json:"operation"`
	Username  string `json:"username,omitempty"`
	Password  string `json:"password,omitempty" doc:"Shown this once"`
	Bucket    string `json:"bucket,omitempty"`
}

type startedAnswer struct {
	Replayed string `header:"Idempotency-Replayed"`
	Body     started
}

type provisionBody struct {
	DatabaseName string `json:"database_name,omitempty" maxLength:"63"`
	Wish
}

// provision makes the org, then the warehouse, whose creation decides between
// two that race, then the root user's password, which only the winner sets.
func (a *API) provision(ctx context.Context, in *struct {
	OrgPath
	Mutation
	Idempotent
	Body provisionBody
}) (*startedAnswer, error) {
	request := in.request(verbProvision, in.Body)
	if err := in.Body.apply(a, in.ID, &v1alpha1.WarehouseSpec{}); err != nil {
		return nil, err
	}
	w, replayed, err := a.decideProvision(ctx, in.ID, in.Body.Wish, request)
	if err != nil {
		return nil, err
	}
	if err := a.ensureOrg(ctx, in.ID, in.Body.DatabaseName, in.Mutation); err != nil {
		return nil, err
	}
	if !replayed {
		if err := a.writeAttempt(ctx, w, in.Mutation); err != nil {
			return nil, err
		}
		a.settled(ctx, w, in.Mutation)
	}
	answer := &startedAnswer{Body: started{Status: "provisioning started", Org: in.ID, Operation: operationID(w, verbProvision), Bucket: w.Spec.DataStore.BucketName}}
	if replayed {
		answer.Replayed = "true"
	}
	if in.DryRun {
		return answer, nil
	}
	answer.Body.Username = rootUser
	answer.Body.Password, err = a.firstPassword(ctx, in.ID, replayed)
	return answer, err
}

var errNonTerminal = fail(http.StatusConflict, "warehouse already exists in non-terminal state")

// decideProvision is the warehouse as it should be written, of what is there now.
func (a *API) decideProvision(ctx context.Context, id string, want Wish, r v1alpha1.WarehouseRequest) (w *v1alpha1.Warehouse, replayed bool, err error) {
	w = &v1alpha1.Warehouse{}
	err = a.Live.Get(ctx, client.ObjectKey{Name: id}, w)
	switch {
	case apierrors.IsNotFound(err):
		w = &v1alpha1.Warehouse{ObjectMeta: metav1.ObjectMeta{Name: id}, Spec: v1alpha1.WarehouseSpec{Attempt: 1}}
	case err != nil:
		return nil, false, err
	default:
		if replayed, err = repeated(w, r); replayed || err != nil {
			return w, replayed, err
		}
		if state := w.State(); state != v1alpha1.StateFailed && state != v1alpha1.StateDeleted {
			return nil, false, errNonTerminal
		}
		w.Spec.Attempt, w.Spec.Deprovision = w.Spec.Attempt+1, false
	}
	remember(w, r)
	return w, false, want.apply(a, id, &w.Spec)
}

// writeAttempt creates or updates the warehouse; one that changed meanwhile was
// provisioned by somebody else.
func (a *API) writeAttempt(ctx context.Context, w *v1alpha1.Warehouse, m Mutation) error {
	var err error
	if w.ResourceVersion == "" {
		err = a.Live.Create(ctx, w, m.create()...)
	} else {
		var options []client.UpdateOption
		if m.DryRun {
			options = append(options, client.DryRunAll)
		}
		err = a.Live.Update(ctx, w, options...)
	}
	if apierrors.IsAlreadyExists(err) || isRace(err) {
		return errNonTerminal
	}
	return err
}

// ensureOrg makes the org if there is none, with its root user listed.
func (a *API) ensureOrg(ctx context.Context, id, database string, m Mutation) error {
	if database != "" {
		if err := a.free(ctx, database, id); err != nil {
			return err
		}
	}
	o := &v1alpha1.Org{ObjectMeta: metav1.ObjectMeta{Name: id}, Spec: v1alpha1.OrgSpec{DatabaseName: database}}
	err := a.Live.Create(ctx, o, m.create()...)
	if apierrors.IsAlreadyExists(err) {
		err = change(ctx, a, m, o, func(o *v1alpha1.Org) error {
			if database != "" {
				o.Spec.DatabaseName = database
			}
			return nil
		})
	}
	if err == nil {
		a.settled(ctx, o, m)
	}
	return err
}

// firstPassword gives the root user a password and returns it. A repeated
// request gets none, unless the first one ended before it had set one.
func (a *API) firstPassword(ctx context.Context, id string, replayed bool) (string, error) {
	if replayed {
		if hashes, err := a.hashes(ctx, id); err != nil || len(hashes[rootUser]) > 0 {
			return "", err
		}
	}
	password := newPassword()
	if err := a.setPassword(ctx, Mutation{}, id, rootUser, password, ""); err != nil {
		return "", err
	}
	return password, a.addUser(ctx, Mutation{}, id, rootUser, false)
}

var errNotDeprovisionable = fail(http.StatusConflict, "warehouse must be in ready, failed, or provisioning state to deprovision")

func (a *API) deprovision(ctx context.Context, in *struct {
	OrgPath
	Mutation
	Idempotent
}) (*startedAnswer, error) {
	request := in.request(verbDeprovision, nil)
	w := &v1alpha1.Warehouse{ObjectMeta: metav1.ObjectMeta{Name: in.ID}}
	answer := &startedAnswer{}
	err := change(ctx, a, in.Mutation, w, func(w *v1alpha1.Warehouse) error {
		replayed, err := repeated(w, request)
		if replayed || err != nil {
			answer.Replayed = "true"
			return err
		}
		switch w.State() {
		case v1alpha1.StateReady, v1alpha1.StateFailed, v1alpha1.StateProvisioning:
			w.Spec.Deprovision = true
			remember(w, request)
			return nil
		}
		return errNotDeprovisionable
	})
	if apierrors.IsNotFound(err) {
		err = errNoWarehouse
	}
	if err != nil {
		return nil, err
	}
	a.settled(ctx, w, in.Mutation)
	answer.Body = started{Status: "deprovisioning started", Org: in.ID, Operation: operationID(w, verbDeprovision)}
	return answer, nil
}

// newCredentials are a user's, with the password shown this once.
type newCredentials struct {
	Username string `json:"username"`
	Password string `json:"password,omitempty"`
}

func (a *API) resetPassword(ctx context.Context, in *struct {
	OrgPath
	Mutation
	Idempotent
}) (*struct {
	Replayed string `header:"Idempotency-Replayed"`
	Body     newCredentials
}, error) {
	answer := &struct {
		Replayed string `header:"Idempotency-Replayed"`
		Body     newCredentials
	}{Body: newCredentials{Username: rootUser}}
	w := &v1alpha1.Warehouse{}
	if err := a.Live.Get(ctx, client.ObjectKey{Name: in.ID}, w); apierrors.IsNotFound(err) {
		return nil, errNoWarehouse
	} else if err != nil {
		return nil, err
	}
	if w.State() != v1alpha1.StateReady {
		return nil, fail(http.StatusConflict, "warehouse must be ready to reset its password")
	}
	request := in.request(verbReset, nil).KeyDigest
	hashes, err := a.hashes(ctx, in.ID)
	if err != nil || request != "" && string(hashes[rootUser+requestSuffix]) == request {
		answer.Replayed = "true"
		return answer, err
	}
	if in.DryRun {
		return answer, nil
	}
	answer.Body.Password = newPassword()
	if err := a.setPassword(ctx, in.Mutation, in.ID, rootUser, answer.Body.Password, request); err != nil {
		return nil, err
	}
	return answer, a.addUser(ctx, in.Mutation, in.ID, rootUser, false)
}
