package rest

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/danielgtaylor/huma/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// problem is the body of every error.
type problem struct {
	status  int
	Message string `json:"error" doc:"What is wrong, for a person"`
	// SQLState is what a data plane tells the tenant, on activations.
	SQLState string `json:"sqlstate,omitempty"`
	after    int    // seconds; 0 gives no advice
}

func (p *problem) Error() string { return p.Message }

// GetStatus and GetHeaders are how the router asks.
func (p *problem) GetStatus() int { return p.status }

// GetHeaders tells when to come back, if that is known.
func (p *problem) GetHeaders() http.Header {
	if p.after == 0 {
		return nil
	}
	return http.Header{"Retry-After": {strconv.Itoa(p.after)}}
}

func problemOf(status int, message string) *problem {
	return &problem{status: status, Message: message}
}

func fail(status int, message string) error { return problemOf(status, message) }

// retryAfter is the advice when the API server is away, in seconds.
const retryAfter = 5

// explain is the one place where an error of the API server becomes an answer.
// What the API server did not decide is never the client's fault, nor a
// conflict: it is 503.
func explain(err error) *problem {
	var answer *problem
	switch {
	case errors.As(err, &answer):
		return answer
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		return problemOf(http.StatusBadRequest, err.Error())
	case apierrors.IsNotFound(err):
		return problemOf(http.StatusNotFound, err.Error())
	case apierrors.IsAlreadyExists(err):
		return problemOf(http.StatusConflict, err.Error())
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
		return problemOf(http.StatusInternalServerError, "this service lacks a right on the API server: "+err.Error())
	case errors.Is(err, errRace):
		return &problem{status: http.StatusServiceUnavailable, Message: err.Error(), after: 1}
	case errors.Is(err, context.Canceled):
		return problemOf(http.StatusServiceUnavailable, "the request was given up")
	}
	return &problem{status: http.StatusServiceUnavailable, Message: "the API server cannot be reached now", after: retryAfter}
}

// useProblems has the router answer with problems. It is process-wide, as the
// router has it.
var useProblems = sync.OnceFunc(func() {
	huma.NewError = func(status int, message string, details ...error) huma.StatusError {
		if status == http.StatusUnprocessableEntity {
			status = http.StatusBadRequest // what does not fit the schema does not parse
		}
		texts := []string{message}
		for _, detail := range details {
			var at *huma.ErrorDetail
			switch {
			case errors.As(detail, &at):
				texts = append(texts, strings.TrimPrefix(at.Location+": "+at.Message, ": "))
			case detail != nil:
				texts = append(texts, detail.Error())
			}
		}
		return &problem{status: status, Message: strings.Join(texts, "; ")}
	}
})
