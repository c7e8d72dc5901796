"""Presigned S3 URLs: AWS Signature Version 4 in the query.

Signatures are made here because a large file needs up to 10,000 URLs, and a general client takes milliseconds for each.
https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import quote, urlsplit

SIGNATURE = "&X-Amz-Signature="

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs for one access key and region.

    Attributes:
        access_key_id: The key's id.
        secret_access_key: The key.
        region: The region that the store goes by.
        ttl: Seconds that a URL is valid.
    """

    access_key_id: str
    secret_access_key: str = field(repr=False)
    region: str
    ttl: int

    def presign(
        self, method: str, endpoint: str, bucket: str, key: str, at: datetime, query: Mapping[str, str] | None = None
    ) -> str:
        """Return a URL that lets whoever has it make one kind of request.

        Args:
            method: The HTTP method.
            endpoint: The store's URL.
            bucket: The bucket, perhaps with its tenant before it.
            key: The object.
            at: From when on the URL is valid; UTC.
            query: The operation's own query, such as ``uploadId`` and ``partNumber``.
        """
        parts = urlsplit(endpoint)
        path = parts.path.rstrip("/") + "/" + quote(f"{bucket}/{key}", safe="/-_.~")
        date, scope = f"{at:%Y%m%d}", f"{at:%Y%m%d}/{self.region}/s3/aws4_request"
        fields = {
            **(query or {}),
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Credential": f"{self.access_key_id}/{scope}",
            "X-Amz-Date": f"{at:%Y%m%dT%H%M%SZ}",
            "X-Amz-Expires": str(self.ttl),
            "X-Amz-SignedHeaders": "host",
        }
        host = parts.hostname or ""
        if ":" in host:
            host = f"[{host}]"
        if parts.port not in (None, _DEFAULT_PORTS.get(parts.scheme)):
            host = f"{host}:{parts.port}"
        canonical_query = "&".join(f"{_quoted(name)}={_quoted(fields[name])}" for name in sorted(fields))
        request = f"{method}\n{path}\n{canonical_query}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD"
        digest = hashlib.sha256(request.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{fields['X-Amz-Date']}\n{scope}\n{digest}"
        signature = hmac.new(self._signing_key(date), text.encode(), hashlib.sha256).hexdigest()
        return f"{parts.scheme}://{host}{path}?{canonical_query}{SIGNATURE}{signature}"

    def _signing_key(self, date: str) -> bytes:
        key = f"AWS4{self.secret_access_key}".encode()
        for step in (date, self.region, "s3", "aws4_request"):
            key = hmac.new(key, step.encode(), hashlib.sha256).digest()
        return key


def _quoted(text: str) -> str:
    return quote(text, safe="-_.~")
