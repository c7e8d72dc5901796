{{- define "hpcgate.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains "hpcgate" .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-hpcgate" (.Release.Name | trunc 42 | trimSuffix "-") -}}
{{- end -}}
{{- end -}}

{{- define "hpcgate.selector" -}}
app.kubernetes.io/name: hpcgate
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "hpcgate.labels" -}}
{{ include "hpcgate.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "hpcgate.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* Refuse secrets that stand in the configuration themselves. Gets a dict: at (the path so far), value. */}}
{{- define "hpcgate.noSecrets" -}}
{{- $secret := list "privatekey" "passphrase" "cakey" "pkcs11pin" "token" "clientsecret" "secret" "accesskeyid" "secretaccesskey" -}}
{{- $at := .at -}}
{{- if kindIs "map" .value -}}
  {{- range $key, $value := .value -}}
    {{- $here := ternary $key (printf "%s.%s" $at $key) (eq $at "") -}}
    {{- $plain := and (kindIs "string" $value) (not (hasPrefix "secret_file:" $value)) -}}
    {{- if and $plain (or (has (lower (replace "_" "" $key)) $secret) (eq $at "tracing.headers")) -}}
      {{- fail (printf "config.%s: a secret must not stand in the values; mount a Secret by secretFiles and write secret_file:/run/secrets/NAME/KEY" $here) -}}
    {{- end -}}
    {{- if and $plain (regexMatch "^[A-Za-z0-9+]+://[^/]*@" $value) -}}
      {{- fail (printf "config.%s: a URL with a password must not stand in the values; mount a Secret by secretFiles and write secret_file:/run/secrets/NAME/KEY" $here) -}}
    {{- end -}}
    {{- include "hpcgate.noSecrets" (dict "at" $here "value" $value) -}}
  {{- end -}}
{{- else if kindIs "slice" .value -}}
  {{- range $index, $value := .value -}}
    {{- include "hpcgate.noSecrets" (dict "at" (printf "%s[%d]" $at $index) "value" $value) -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{- define "hpcgate.config" -}}
{{- include "hpcgate.noSecrets" (dict "at" "" "value" .Values.config) -}}
{{- if hasKey .Values.config "metrics" -}}
{{- fail "config.metrics is set by the chart: use metrics.enabled and metrics.port" -}}
{{- end -}}
{{- if eq (int .Values.metrics.port) 8000 -}}
{{- fail "metrics.port must not be 8000, the port of the API" -}}
{{- end -}}
{{- $config := deepCopy .Values.config -}}
{{- if .Values.metrics.enabled -}}
{{- $_ := set $config "metrics" (dict "port" (int .Values.metrics.port) "host" "0.0.0.0") -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{/* Seconds that the gateway takes at most to stop by itself. */}}
{{- define "hpcgate.stopSeconds" -}}
{{- $http := .Values.config.http | default dict -}}
{{- $drain := $http.drain -}}
{{- if kindIs "invalid" $drain }}{{ $drain = 10 }}{{ end -}}
{{- $stop := ternary $http.graceful_stop $http.gracefulStop (hasKey $http "graceful_stop") -}}
{{- if kindIs "invalid" $stop }}{{ $stop = 30 }}{{ end -}}
{{- ceil (addf $drain $stop) | int -}}
{{- end -}}

{{- define "hpcgate.graceSeconds" -}}
{{- $needed := include "hpcgate.stopSeconds" . | int -}}
{{- $asked := .Values.terminationGracePeriodSeconds -}}
{{- if kindIs "invalid" $asked -}}
{{- add $needed 15 -}}
{{- else if le (int $asked) $needed -}}
{{- fail (printf "terminationGracePeriodSeconds must be more than the %d seconds of config.http.drain and graceful_stop" $needed) -}}
{{- else -}}
{{- int $asked -}}
{{- end -}}
{{- end -}}
