package cloud

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"
)

// Service is where roles are assumed.
type Service struct {
	Region string
	// Endpoint of a service other than AWS's own, as a URL; empty is AWS's.
	Endpoint string
	// Own are the broker's credentials; nil finds them as every AWS program does.
	Own aws.CredentialsProvider
}

// Fault is what the service answered, by its code alone: its texts quote more
// than a tenant should see.
type Fault struct {
	Code string
	// Passing means that the same call may succeed later.
	Passing bool
}

func (f *Fault) Error() string { return "the security token service said " + f.Code }

// AssumeRole is how a Broker calls the service.
func (s Service) AssumeRole(ctx context.Context) (func(context.Context, Request) (Credentials, error), error) {
	loaded, err := config.LoadDefaultConfig(ctx, config.WithRegion(s.Region))
	if err != nil {
		return nil, fmt.Errorf("finding the cloud's configuration: %w", err)
	}
	client := sts.NewFromConfig(loaded, func(o *sts.Options) {
		if s.Endpoint != "" {
			o.BaseEndpoint = aws.String(s.Endpoint)
		}
		if s.Own != nil {
			o.Credentials = s.Own
		}
	})
	return func(ctx context.Context, r Request) (Credentials, error) {
		in := &sts.AssumeRoleInput{RoleArn: aws.String(r.ARN), RoleSessionName: aws.String(r.Session), DurationSeconds: aws.Int32(int32(r.Duration / time.Second))}
		if r.Policy != "" {
			in.Policy = aws.String(r.Policy)
		}
		out, err := client.AssumeRole(ctx, in)
		if err != nil {
			return Credentials{}, faultOf(err)
		}
		if out.Credentials == nil {
			return Credentials{}, errors.New("the security token service returned nil credentials")
		}
		return Credentials{
			AccessKeyID: aws.ToString(out.Credentials.AccessKeyId), SecretAccessKey: aws.ToString(out.Credentials.SecretAccessKey),
			SessionToken: aws.ToString(out.Credentials.SessionToken), Expires: aws.ToTime(out.Credentials.Expiration),
		}, nil
	}, nil
}

// faultOf keeps of an error what helps and tells nothing.
func faultOf(err error) error {
	var answer smithy.APIError
	switch {
	case errors.As(err, &answer):
		passing := answer.ErrorFault() == smithy.FaultServer || answer.ErrorCode() == "Throttling" || answer.ErrorCode() == "ThrottlingException"
		return &Fault{Code: answer.ErrorCode(), Passing: passing}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return &Fault{Code: "nothing in time", Passing: true}
	}
	var none *aws.MissingRegionError
	if errors.As(err, &none) {
		return &Fault{Code: "that no region is configured"}
	}
	return &Fault{Code: "nothing: it cannot be reached, or there are no credentials to call it with", Passing: true}
}
