{{/* The name of an object: the release's, and what it is. 63 characters are allowed, and "-check-deploy" has 13. */}}
{{- define "order-saga.name" -}}
{{ .root.Release.Name | trunc 49 | trimSuffix "-" }}-{{ .component }}
{{- end }}

{{/* By which pods are chosen. A Deployment's can't be changed: never add one. */}}
{{- define "order-saga.selector" -}}
app.kubernetes.io/name: order-saga
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "order-saga.labels" -}}
{{ include "order-saga.selector" . }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/version: {{ .root.Values.image.tag | default .root.Chart.AppVersion | trunc 63 | quote }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.cell }}
order-saga/cell: {{ . }}
{{- end }}
{{- end }}

{{- define "order-saga.secret" -}}
{{ .Values.secret }}{{ with .Values.cell }}-{{ . }}{{ end }}
{{- end }}

{{- define "order-saga.prefix" -}}
{{ with .Values.cell }}{{ . }}.{{ end }}
{{- end }}

{{- define "order-saga.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end -}}
{{- end }}

{{/* A value as the text of an environment variable: 1000000, and not 1e+06. */}}
{{- define "order-saga.text" -}}
{{ if kindIs "string" . }}{{ quote . }}{{ else }}{{ toJson . | quote }}{{ end }}
{{- end }}

{{/* An environment variable that a key of the Secret has: root, name, key, optional. */}}
{{- define "order-saga.fromSecret" -}}
- name: {{ .name }}
  valueFrom: {secretKeyRef: {name: {{ include "order-saga.secret" .root }}, key: {{ .key }}{{ if .optional }}, optional: true{{ end }}}}
{{- end }}

{{/* How a login reaches Kafka: root, login. */}}
{{- define "order-saga.kafka" -}}
{{- $kafka := .root.Values.kafka -}}
- {name: KAFKA_BOOTSTRAP_SERVERS, value: {{ $kafka.bootstrapServers | quote }}}
- {name: KAFKA_TOPIC_PREFIX, value: {{ include "order-saga.prefix" .root | quote }}}
- {name: KAFKA_SECURITY_PROTOCOL, value: {{ $kafka.securityProtocol }}}
{{- if hasPrefix "SASL" $kafka.securityProtocol }}
- {name: KAFKA_SASL_MECHANISM, value: {{ $kafka.saslMechanism }}}
- {name: KAFKA_SASL_USERNAME, value: {{ get $kafka.usernames .login | default .login | quote }}}
{{ include "order-saga.fromSecret" (dict "root" .root "name" "KAFKA_SASL_PASSWORD" "key" (printf "%s-kafka-password" .login)) }}
{{- end }}
{{- with $kafka.caKey }}
- {name: KAFKA_SSL_CAFILE, value: /trust/kafka-ca.pem}
{{- end }}
{{- end }}

{{/* What the pods of services and of hooks have in common, below `spec`. */}}
{{- define "order-saga.pod" -}}
automountServiceAccountToken: false
# A Service by the name of "http" would else set HTTP_PORT.
enableServiceLinks: false
securityContext: {runAsNonRoot: true, runAsUser: 10001, runAsGroup: 10001, fsGroup: 10001, seccompProfile: {type: RuntimeDefault}}
{{- with .Values.serviceAccountName }}
serviceAccountName: {{ . }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
volumes:
  - {name: tmp, emptyDir: {sizeLimit: 16Mi}}
  {{- if or .Values.kafka.caKey .Values.database.caKey }}
  - name: trust
    secret:
      secretName: {{ include "order-saga.secret" . }}
      defaultMode: 0440
      items:
        {{- with .Values.kafka.caKey }}
        - {key: {{ . }}, path: kafka-ca.pem}
        {{- end }}
        {{- with .Values.database.caKey }}
        - {key: {{ . }}, path: database-ca.pem}
        {{- end }}
  {{- end }}
{{- end }}

{{/* What their containers have in common. */}}
{{- define "order-saga.container" -}}
image: {{ include "order-saga.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
  {{- if or .Values.kafka.caKey .Values.database.caKey }}
  - {name: trust, mountPath: /trust, readOnly: true}
  {{- end }}
{{- end }}
