// Ranks by a client of npm, and prints the index of the best document: RERANKER_API_KEY=... node clients.mjs URL MODEL CLIENT
import { CohereRerank } from '@langchain/cohere';
import { createVoyage } from '@ai-sdk/voyage';
import { rerank } from 'ai';
import { CohereClient, CohereClientV2 } from 'cohere-ai';
import { VoyageAIClient } from 'voyageai';

const [url, model, client] = process.argv.slice(2);
const key = process.env.RERANKER_API_KEY;
const query = 'What is deep learning?';
const documents = ['I like pizza.', 'The weather is nice.', 'Deep learning is machine learning.'];
const calls = {
  'ai-sdk-voyage': async () => {
    const voyage = createVoyage({ baseURL: `${url}/voyage/v1`, apiKey: key });
    return (await rerank({ model: voyage.reranking(model), query, documents })).ranking[0].originalIndex;
  },
  langchain: async () =>
    (await new CohereRerank({ client: new CohereClient({ environment: url, token: key }), model }).rerank(documents, query))[0]
      .index,
  librechat: async () => {
    const { createReranker } = await import('./librechat/package/dist/esm/tools/search/rerankers.mjs');
    const logger = { debug() {}, warn: console.error, error: console.error };
    return documents.indexOf((await createReranker({ rerankerType: 'jina', logger }).rerank(query, documents))[0].text);
  },
  'cohere-v1': async () =>
    (await new CohereClient({ environment: url, token: key }).rerank({ model, query, documents })).results[0].index,
  'cohere-v2': async () =>
    (await new CohereClientV2({ environment: url, token: key }).rerank({ model, query, documents })).results[0].index,
  voyage: async () =>
    (await new VoyageAIClient({ environment: url, apiKey: key }).rerank({ model, query, documents, topK: 1 })).data[0]
      .index,
};
console.log(await calls[client]());
